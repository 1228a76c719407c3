"""What is inside the checkpoints that people align: enough to estimate and to test without their gigabytes.

Each entry holds the constructor arguments of the checkpoint's parts, as its own `config.json` files give them; what
equals the constructor's default is left out. Parameter counts are checked against the published ones in the tests.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...errors import UserError
from .checkpoint import BUILT_IN, Checkpoint, find_checkpoint
from .hub_ids import HUB_IDS


@dataclass(frozen=True)
class Part:
    """A component: its class in diffusers or transformers, and the arguments that build it."""

    kind: str
    config: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {"kind": self.kind, "config": dict(self.config)}


@dataclass(frozen=True)
class Architecture:
    """A checkpoint without its weights.

    Attributes:
        name: what palate calls it.
        family: a key of `checkpoint.FAMILIES`, or `flux`, which can be estimated but not yet trained.
        resolution: pixels a side that the network was trained for.
        network: the denoiser.
        text_tokens: how many text positions the network attends to.
        scheduler: the essentials of `scheduler_config.json`; `diffusion` builds the noise process from them.
        vae: None where only the network is described.
        text_encoders: by the name of the pipeline's component.
        hub_ids: see `HUB_IDS`.
    """

    name: str
    family: str
    resolution: int
    network: Part
    text_tokens: int
    scheduler: Mapping[str, Any]
    vae: Part | None = None
    text_encoders: Mapping[str, Part] = field(default_factory=dict)
    hub_ids: tuple[str, ...] = ()


_CLIP_TOKENS = 77
_T5_TOKENS = 256  # `sd3.py` encodes this many; the sampler's pipeline does too

_SD_SCHEDULER = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "steps_offset": 1,  # in each one's published file: a sampling grid ends at timestep 1, and not at 0
}

# The four-level autoencoder that all of them share, with 4 or 16 latent channels.
_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
_SD_VAE = Part("AutoencoderKL", {**_VAE, "sample_size": 512, "scaling_factor": 0.18215})
_SDXL_VAE = Part("AutoencoderKL", {**_VAE, "sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True})
_SD3_VAE_CONFIG = {
    "latent_channels": 16,
    "sample_size": 1024,
    "scaling_factor": 1.5305,
    "shift_factor": 0.0609,
    "force_upcast": True,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
_SD3_VAE = Part("AutoencoderKL", {**_VAE, **_SD3_VAE_CONFIG})

_CLIP_L_CONFIG = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": _CLIP_TOKENS,
    "hidden_act": "quick_gelu",
    "projection_dim": 768,
}
_CLIP_H_CONFIG = {
    **_CLIP_L_CONFIG,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,  # of 24: the checkpoint leaves out the last one, whose output SD2 does not read
    "num_attention_heads": 16,
    "hidden_act": "gelu",
    "projection_dim": 512,
}
_CLIP_G_CONFIG = {
    **_CLIP_L_CONFIG,
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "hidden_act": "gelu",
    "projection_dim": 1280,
}
_T5_XXL_CONFIG = {
    "vocab_size": 32128,
    "d_model": 4096,
    "d_ff": 10240,
    "d_kv": 64,
    "num_heads": 64,
    "num_layers": 24,
    "feed_forward_proj": "gated-gelu",
}

_SD_UNET = {
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "layers_per_block": 2,
}
_SD2_UNET = {
    **_SD_UNET,
    "attention_head_dim": (5, 10, 20, 20),
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
}
_SDXL_UNET = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
_MMDIT = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 24,
    "attention_head_dim": 64,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
}
_FLUX_DEV = {
    "patch_size": 1,
    "in_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": True,
    "axes_dims_rope": (16, 56, 56),
}

_FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
_FLUX_SHIFT = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}

_SD3_TEXT = {
    "text_encoder": Part("CLIPTextModelWithProjection", _CLIP_L_CONFIG),
    "text_encoder_2": Part("CLIPTextModelWithProjection", _CLIP_G_CONFIG),
    "text_encoder_3": Part("T5EncoderModel", _T5_XXL_CONFIG),
}


def _sd(name: str, family: str, unet: dict[str, Any], text: dict[str, Any], prediction: str) -> Architecture:
    latents = unet["sample_size"]
    return Architecture(
        name=name,
        family=family,
        resolution=latents * 8,
        network=Part("UNet2DConditionModel", unet),
        text_tokens=_CLIP_TOKENS,
        scheduler={**_SD_SCHEDULER, "_class_name": "PNDMScheduler", "prediction_type": prediction},
        vae=Part("AutoencoderKL", {**_SD_VAE.config, "sample_size": latents * 8}),
        text_encoders={"text_encoder": Part("CLIPTextModel", text)},
        hub_ids=HUB_IDS[name],
    )


def _sd3(name: str, **changes: Any) -> Architecture:
    return Architecture(
        name=name,
        family="sd3",
        resolution=1024,
        network=Part("SD3Transformer2DModel", {**_MMDIT, **changes}),
        text_tokens=_CLIP_TOKENS + _T5_TOKENS,
        scheduler=_FLOW,
        vae=_SD3_VAE,
        text_encoders=_SD3_TEXT,
        hub_ids=HUB_IDS[name],
    )


_ALL = (
    _sd(
        "sd1.5",
        "sd1",
        {**_SD_UNET, "sample_size": 64, "attention_head_dim": 8, "cross_attention_dim": 768},
        _CLIP_L_CONFIG,
        "epsilon",
    ),
    _sd(
        "sd2.1",
        "sd2",
        {**_SD2_UNET, "sample_size": 96, "upcast_attention": True},
        _CLIP_H_CONFIG,
        "v_prediction",
    ),
    _sd(
        "sd2.1-base",
        "sd2",
        {**_SD2_UNET, "sample_size": 64},
        _CLIP_H_CONFIG,
        "epsilon",
    ),
    Architecture(
        name="sdxl",
        family="sdxl",
        resolution=1024,
        network=Part("UNet2DConditionModel", _SDXL_UNET),
        text_tokens=_CLIP_TOKENS,
        scheduler={
            **_SD_SCHEDULER,
            "_class_name": "EulerDiscreteScheduler",
            "prediction_type": "epsilon",
            "timestep_spacing": "leading",
        },
        vae=_SDXL_VAE,
        text_encoders={
            "text_encoder": Part("CLIPTextModel", _CLIP_L_CONFIG),
            "text_encoder_2": Part("CLIPTextModelWithProjection", _CLIP_G_CONFIG),
        },
        hub_ids=HUB_IDS["sdxl"],
    ),
    _sd3("sd3-medium"),
    _sd3(
        "sd3.5-medium",
        dual_attention_layers=tuple(range(13)),
        pos_embed_max_size=384,
        qk_norm="rms_norm",
    ),
    _sd3(
        "sd3.5-large",
        num_layers=38,
        num_attention_heads=38,
        caption_projection_dim=2432,
        qk_norm="rms_norm",
    ),
    Architecture(
        name="flux-dev",
        family="flux",
        resolution=1024,
        network=Part("FluxTransformer2DModel", _FLUX_DEV),
        text_tokens=512,
        scheduler={**_FLOW, **_FLUX_SHIFT},
        hub_ids=HUB_IDS["flux-dev"],
    ),
)

ARCHITECTURES: dict[str, Architecture] = {architecture.name: architecture for architecture in _ALL}
"""By palate's name."""


def find_architecture(path: str, revision: str | None = None) -> Architecture:
    """The architecture of a known name, of an official hub id (both without the network), or of a checkpoint.

    A folder of such a name counts more. Raises UserError where `find_checkpoint` does.
    """
    for architecture in _ALL:
        if (path == architecture.name or path in architecture.hub_ids) and not Path(path).is_dir():
            return architecture
    return replace(read_architecture(find_checkpoint(path, revision=revision)), name=path)


def architecture_at_hand(path: str) -> Architecture | None:
    """What `find_architecture` finds without the network; None for other hub ids, and for what is no checkpoint."""
    known = path in BUILT_IN or any(path == one.name or path in one.hub_ids for one in _ALL)
    # A name from another machine's data may be no path at all here: another's home, a closed folder, a long text.
    with contextlib.suppress(UserError, OSError, RuntimeError):
        if known or Path(path).expanduser().is_dir():
            return find_architecture(path)
    return None


def read_architecture(checkpoint: Checkpoint) -> Architecture:
    """The architecture of a diffusers checkpoint, from its configuration files alone."""

    def part(name: str) -> Part:
        return Part(checkpoint.index[name][1], checkpoint.config(name))

    family = checkpoint.family
    vae, network = part("vae"), part(family.network)
    encoders = {name: part(name) for name in family.text_encoders if checkpoint.has(name)}
    positions = [encoder.config.get("max_position_embeddings", 0) for encoder in encoders.values()]
    tokens = max(positions, default=_CLIP_TOKENS) or _CLIP_TOKENS
    if family.name == "sd3":
        limit = checkpoint.config("tokenizer_3", "tokenizer_config.json") if checkpoint.has("tokenizer_3") else {}
        tokens += min(_T5_TOKENS, limit.get("model_max_length", _T5_TOKENS))
    return Architecture(
        name=checkpoint.path,
        family=family.name,
        resolution=network.config["sample_size"] * 2 ** (len(vae.config["block_out_channels"]) - 1),
        network=network,
        text_tokens=tokens,
        scheduler=checkpoint.config("scheduler", "scheduler_config.json"),
        vae=vae,
        text_encoders=encoders,
    )
