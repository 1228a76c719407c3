"""Which scorers are in memory together: as many as fit, one after the other where they do not."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..registry import find_entry
from ..scorer import Scorer, open_scorers, require_names

if TYPE_CHECKING:
    import torch

_SHARE = 0.7
"""Of the free memory that weights may take; the rest is for pictures and what the networks compute."""


def passes_of(
    names: Sequence[str],
    assets: Mapping[str, Mapping[str, Any]],
    device: torch.device,
    dtype: torch.dtype | None = None,
) -> list[Callable[[], list[Scorer]]]:
    """Openers for `score_in_passes`, each of as many scorers as the device has room for.

    Args:
        dtype: of all networks; None for each scorer's own.

    Raises:
        UserError: a name comes twice or is unknown, or assets are given for one that is not asked for.
    """
    require_names(names, assets)
    placed = {"device": device} if dtype is None else {"device": device, "dtype": dtype}
    needed = {name: weights_gb(name, assets.get(name, {}), dtype) for name in names}

    def opener(together: list[str]) -> Callable[[], list[Scorer]]:
        given = {name: assets[name] for name in together if name in assets}
        return lambda: open_scorers(together, given, **placed)

    return [opener(together) for together in plan_passes(needed, room_gb(device))]


def plan_passes(needed: Mapping[str, float], room: float) -> list[list[str]]:
    """Names in passes, in their order; one that has no room even alone is alone.

    Args:
        needed: memory of the weights by name, in the unit of `room`.
        room: memory that a pass may take.
    """
    passes: list[list[str]] = []
    taken = 0.0
    for name, size in needed.items():
        if not passes or taken + size > room:
            passes.append([])
            taken = 0.0
        passes[-1].append(name)
        taken += size
    return passes


def weights_gb(name: str, assets: Mapping[str, Any], dtype: torch.dtype | None) -> float:
    """Memory of a scorer's weights, 10^9 bytes: of the files that are given, or what the registry says.

    Files may hold half the precision that is asked for, so that theirs counts twice at 4 bytes a number.
    """
    entry = find_entry(name)
    own = "float32" if isinstance(entry, EntryPoint) else entry.dtype
    doubled = (dtype.itemsize if dtype else {"float32": 4}.get(own, 2)) / 2
    path = Path(str(assets.get("weights", ""))).expanduser()
    if assets.get("weights") and path.exists():
        files: Iterable[Path] = [path] if path.is_file() else (file for file in path.rglob("*") if file.is_file())
        return sum(file.stat().st_size for file in files) / 1e9 * doubled
    return 0.0 if isinstance(entry, EntryPoint) else entry.memory_gb * doubled


def room_gb(device: torch.device) -> float:
    """Memory that weights may take on a device now, 10^9 bytes; infinite where the system does not tell."""
    import torch

    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 1e9 * _SHARE
    try:  # what may be taken without swapping; free pages alone would leave out the file cache
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        try:
            available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
        except (AttributeError, ValueError, OSError):
            return float("inf")
    return available / 1e9 * _SHARE
