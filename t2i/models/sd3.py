"""Stable Diffusion 3 and 3.5: MMDiT on rectified flow, two CLIP encoders and T5 (Esser et al., arXiv 2403.03206)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from .family import Conditions, Family
from .sdxl import sampling_conditions

_T5_TOKENS = 256  # the pipeline's default; a tokenizer that takes fewer sets fewer


def encode_prompts(pipeline: Any, prompts: list[str]) -> Conditions:
    """`hidden` `[n, tokens, w]`: CLIP's and T5's states one after the other; `pooled` `[n, w]`: both CLIP projections.

    Without T5 (`text_encoder_3` absent from the checkpoint) the pipeline puts zeros in its place, as it was trained.
    """
    limit = min(_T5_TOKENS, pipeline.tokenizer_3.model_max_length) if pipeline.tokenizer_3 else _T5_TOKENS
    hidden, _, pooled, _ = pipeline.encode_prompt(
        prompts, None, None, device=pipeline.device, do_classifier_free_guidance=False, max_sequence_length=limit
    )
    return {"hidden": hidden, "pooled": pooled}


def predict(network: nn.Module, noisy: Tensor, times: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
    """The transformer's velocity `[n, C, h, w]` at times in [0, 1000]."""
    return network(noisy, conditions["hidden"].to(noisy), conditions["pooled"].to(noisy), times, return_dict=False)[0]


SD3 = Family(
    name="sd3",
    pipeline="StableDiffusion3Pipeline",
    network="transformer",
    text_encoders=("text_encoder", "text_encoder_2", "text_encoder_3"),
    encode_prompts=encode_prompts,
    predict=predict,
    sampling_conditions=sampling_conditions,
    # The text stream's projections too: in MMDiT they are as many as the picture's (SD3 report, appendix on DPO).
    lora_targets=("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
    guidance=7.0,
    steps=28,
)
