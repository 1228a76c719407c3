"""How large pictures an architecture takes, and how large their latents are."""

from __future__ import annotations

from math import lcm

from ...errors import UserError
from .architectures import Architecture

_UNET_PIPELINE_MULTIPLE = 8  # diffusers checks for it in `check_inputs` of SD and SDXL


def latent_shape(architecture: Architecture, resolution: int) -> tuple[int, int, int]:
    """`(C, h, w)` of a square picture's latents.

    Raises UserError where `require_side` does.
    """
    network = architecture.network.config
    require_side(architecture, resolution)
    factor = _pixels_per_latent(architecture)
    channels = network["in_channels"] // 4 if architecture.family == "flux" else network.get("in_channels", 4)
    return channels, resolution // factor, resolution // factor


def require_side(
    architecture: Architecture, resolution: int, drawing: bool = False, setting: str = "data.resolution"
) -> None:
    """Raise UserError, in terms of `setting`, unless pictures of `resolution` pixels a side can be had.

    The network must be able to cut their latents into patches, and to tell where each patch lies. `drawing` adds what
    diffusers' pipelines ask for: those with a UNet take multiples of 8 pixels, whatever the autoencoder does.
    """
    network, factor = architecture.network.config, _pixels_per_latent(architecture)
    patch = 2 if architecture.family == "flux" else network.get("patch_size", 1)
    multiple = smallest = factor * patch
    if drawing and architecture.network.kind == "UNet2DConditionModel":
        multiple = lcm(multiple, _UNET_PIPELINE_MULTIPLE)
    if resolution < 1 or resolution % multiple:
        doing = "draws" if drawing else "takes"
        raise UserError(f"{setting} is {resolution}, but {architecture.name} {doing} multiples of {multiple} pixels")
    positions = network.get("pos_embed_max_size")  # SD3's: so many patches a side have a position
    if positions and resolution > (largest := positions * smallest):
        raise UserError(f"{setting} is {resolution}, but {architecture.name} takes at most {largest} pixels")


def _pixels_per_latent(architecture: Architecture) -> int:
    levels = architecture.vae.config["block_out_channels"] if architecture.vae else range(4)
    return 2 ** (len(levels) - 1)
