"""CLIP-FlanT5: a CLIP vision tower whose patches FLAN-T5 reads between two texts.

Paper: Lin et al. 2024, https://arxiv.org/abs/2404.01291; weights: zhiqiulin/clip-flant5-xl and -xxl, in LLaVA's layout.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, T5Config, T5Model

from ..errors import UserError
from .blip_keys import count_layers

VISION = "vision_tower.vision_tower.vision_model."
_PROJECTOR = ("mm_projector.0", "mm_projector.2")
_HEAD_WIDTH = 64  # of every attention head in OpenAI's CLIPs; no tensor's shape tells it
_TIED = ("embed_tokens.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")  # copies of "shared"
_UNUSED = frozenset(
    {
        *_TIED,
        f"{VISION}embeddings.position_ids",  # counts from 0
        "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",  # in T5's first conversions
    }
)


@dataclass(frozen=True, eq=False)
class ClipT5:
    """The three networks and T5's output table.

    Args:
        vision: CLIP's tower without its last layer: the next to last layer's output is what T5 was taught to read.
        projector: from the tower's width to T5's.
        t5: without output table.
        head: the output table, float32 `[vocabulary, d]`, not tied to the input's.
    """

    vision: nn.Module
    projector: nn.Sequential
    t5: T5Model
    head: Tensor

    def log_probabilities(self, before: Tensor, after: Sequence[Tensor], pixels: Tensor, answer: Tensor) -> Tensor:
        """The logarithm of each answer token's probability, float32 `[n, answer]`; differentiable in pixels.

        Args:
            before: token ids of the text before the picture, `[b]`.
            after: token ids of the text behind each picture, n of any length.
            pixels: `[n, 3, h, w]`.
            answer: token ids, `[answer]`; each is judged after those before it.
        """
        n = len(pixels)
        seen = self.vision(pixel_values=pixels.to(self.t5.dtype)).last_hidden_state[:, 1:]  # without the class token
        seen = self.projector(seen)
        texts = nn.utils.rnn.pad_sequence(list(after), batch_first=True)
        states = torch.cat([self.t5.shared(before).expand(n, -1, -1), seen, self.t5.shared(texts)], dim=1)
        front = states.shape[1] - texts.shape[1]
        lengths = torch.tensor([front + len(text) for text in after], device=states.device)
        mask = torch.arange(states.shape[1], device=states.device) < lengths[:, None]
        start = torch.zeros_like(answer[:1])  # T5 begins an answer with its padding token
        output = self.t5(
            inputs_embeds=states,
            attention_mask=mask.long(),
            decoder_input_ids=torch.cat([start, answer[:-1]]).expand(n, -1),
            use_cache=False,
        )
        # In float32: logits around 30 have steps of 0.125 in bfloat16.
        logits = output.last_hidden_state.float() @ self.head.T
        return logits.log_softmax(dim=-1).gather(-1, answer.expand(n, -1)[..., None])[..., 0]


def build_clip_t5(
    state: Mapping[str, Tensor],
    config: T5Config,
    vocabulary: int,
    vision: CLIPVisionModel | None = None,
    source: str = "the checkpoint",
) -> ClipT5:
    """The networks around the tensors of an official state dict, frozen, in the tensors' own dtype and device.

    Args:
        state: T5's tensors, `mm_projector.*`, `lm_head.weight` and, where `vision` is None, the vision tower's.
        config: of T5; its vocabulary is that of the tensors.
        vocabulary: rows of the output table that count.
        vision: CLIP's tower, whole.
        source: where the tensors are from, for error messages.

    Raises:
        UserError: tensors are missing or unexpected, or their shapes disagree.
    """
    projecting = [f"{part}.{kind}" for part in _PROJECTOR for kind in ("weight", "bias")]
    needed = ["shared.weight", "lm_head.weight", *projecting]
    if missing := [key for key in needed if key not in state]:
        raise UserError(f"{source} lacks {missing[0]}; is it a CLIP-FlanT5, such as zhiqiulin/clip-flant5-xxl?")
    config.vocab_size = len(state["shared.weight"])
    t5_state = {
        key: tensor
        for key, tensor in state.items()
        if key not in _UNUSED and key not in needed[1:] and not key.startswith("vision_tower.")
    }
    t5_state |= dict.fromkeys(_TIED[1:], state["shared.weight"])
    with init_empty_weights(include_buffers=False):  # no memory for weights that are thrown away
        t5 = T5Model(config)
        first, second = (state[f"{part}.weight"].shape for part in _PROJECTOR)
        projector = nn.Sequential(nn.Linear(first[1], first[0]), nn.GELU(), nn.Linear(second[1], second[0]))
    _load(t5, t5_state, source)
    _load(projector, {key.removeprefix("mm_projector."): state[key] for key in projecting}, source)
    tower = _vision_tower(state, source) if vision is None else _inner(vision)
    del cast(Any, tower).encoder.layers[-1]
    head = state["lm_head.weight"][:vocabulary].float()
    for network in (t5, projector, tower):
        # Buffers are in no checkpoint, and so not on its device yet.
        cast(nn.Module, network).to(head.device).requires_grad_(False).eval()
    return ClipT5(tower, projector, t5, head)


def has_vision_tower(state: Mapping[str, Tensor]) -> bool:
    """Whether a checkpoint carries CLIP's tower, rather than naming OpenAI's."""
    return f"{VISION}embeddings.class_embedding" in state


def _vision_tower(state: Mapping[str, Tensor], source: str) -> nn.Module:
    own = {
        key.removeprefix(VISION): tensor
        for key, tensor in state.items()
        if key.startswith("vision_tower.") and key not in _UNUSED
    }
    width, _, patch, _ = own["embeddings.patch_embedding.weight"].shape
    side = math.isqrt(len(own["embeddings.position_embedding.weight"]) - 1)
    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=len(own["encoder.layers.0.mlp.fc1.weight"]),
        num_hidden_layers=count_layers(own, "encoder.layers"),
        num_attention_heads=max(1, width // _HEAD_WIDTH),
        image_size=side * patch,
        patch_size=patch,
        hidden_act="quick_gelu",
    )
    with init_empty_weights(include_buffers=False):
        tower = _inner(CLIPVisionModel(config))
    _load(tower, own, source)
    return tower


def _inner(vision: CLIPVisionModel) -> nn.Module:
    """The tower itself, which earlier versions of transformers wrap once more."""
    return getattr(vision, "vision_model", vision)


def _load(network: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    try:
        network.load_state_dict(tensors, assign=True)
    except RuntimeError as error:  # torch lists every tensor that is missing, unexpected or of another shape
        reason = str(error).strip().splitlines()[-1].strip()
        raise UserError(
            f"{source}: its tensors do not make a CLIP-FlanT5 ({reason[:300]}); "
            "give the folder of zhiqiulin/clip-flant5-xl or -xxl with its config.json"
        ) from None
