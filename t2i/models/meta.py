"""Full-size parts without weights: networks, autoencoders and text encoders on the meta device, and inputs for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from .architectures import Architecture, Part
from .checkpoint import FAMILIES
from .family import Conditions, Family
from .sd3 import SD3
from .sides import latent_shape

_META = torch.device("meta")


def _predict_flux(network: nn.Module, noisy: Tensor, times: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
    """Flux reads 2x2 patches of the latents as tokens; this returns tokens too, for nothing here looks at them."""
    count, channels, height, width = noisy.shape
    patches = noisy.view(count, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    tokens = patches.reshape(count, height * width // 4, channels * 4)
    return network(
        tokens,
        encoder_hidden_states=conditions["hidden"],
        pooled_projections=conditions["pooled"],
        timestep=times / 1000,
        guidance=torch.ones_like(times),
        txt_ids=torch.zeros(conditions["hidden"].shape[1], 3, device=noisy.device),
        img_ids=torch.zeros(tokens.shape[1], 3, device=noisy.device),
        return_dict=False,
    )[0]


_FLUX = replace(SD3, name="flux", pipeline="FluxPipeline", predict=_predict_flux)  # to be estimated, not yet trained


def family_of(architecture: Architecture) -> Family:
    """The architecture's family."""
    return _FLUX if architecture.family == "flux" else FAMILIES[architecture.family]


def build_network(architecture: Architecture, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The denoiser on the meta device, frozen."""
    return _build(diffusers, architecture.network, dtype).requires_grad_(False)


def build_vae(architecture: Architecture, dtype: torch.dtype = torch.float32) -> Any:
    """The autoencoder on the meta device, frozen; the architecture must describe one."""
    assert architecture.vae is not None
    return _build(diffusers, architecture.vae, dtype).requires_grad_(False)


def build_text_encoders(architecture: Architecture, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """The text encoders on the meta device, frozen, by component name."""
    import transformers

    built = {}
    for name, part in architecture.text_encoders.items():
        kind: Any = getattr(transformers, part.kind)
        with _META:
            encoder: nn.Module = kind(kind.config_class.from_dict(dict(part.config)))
        built[name] = encoder.to(dtype).requires_grad_(False)
    return built


def _build(library: Any, part: Part, dtype: torch.dtype) -> nn.Module:
    with _META:
        module = getattr(library, part.kind).from_config(dict(part.config))
    # `ModelMixin.to` has a warning for those who cast real weights.
    return nn.Module.to(module, dtype=dtype)


def make_inputs(
    architecture: Architecture, images: int, resolution: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Conditions]:
    """Noisy latents `[n, C, h, w]`, times `[n]` and conditions on the meta device, for the family's `predict`."""
    config = architecture.network.config
    noisy = torch.empty(images, *latent_shape(architecture, resolution), dtype=dtype, device=_META)
    width = config.get("joint_attention_dim") or config["cross_attention_dim"]
    shapes: dict[str, tuple[int, ...]] = {"hidden": (architecture.text_tokens, width)}
    if "pooled_projection_dim" in config:
        shapes["pooled"] = (config["pooled_projection_dim"],)
    if architecture.family == "sdxl":
        sizes = 6 * config["addition_time_embed_dim"]
        shapes |= {"pooled": (config["projection_class_embeddings_input_dim"] - sizes,), "time_ids": (6,)}
    conditions = {name: torch.empty(images, *shape, dtype=dtype, device=_META) for name, shape in shapes.items()}
    return noisy, torch.empty(images, device=_META), conditions


def count_parameters(module: nn.Module, trainable: bool = False) -> int:
    """Number of weights, or of those that are trained."""
    return sum(prod(weight.shape) for weight in module.parameters() if weight.requires_grad or not trainable)
