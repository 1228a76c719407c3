"""With what a run was made: versions, device, seed; one entry for every start."""

from __future__ import annotations

import json
import platform
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from .disk import write_json

_PACKAGES = ("torch", "accelerate", "diffusers", "transformers", "peft", "safetensors", "numpy")


def describe(device: torch.device, processes: int, seed: int) -> dict[str, Any]:
    """This process's environment; nothing about the user, and no paths."""
    return {
        "palate": __version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "processes": processes,
        "threads": torch.get_num_threads(),
        "seed": seed,
    }


def record(path: Path, step: int, environment: dict[str, Any]) -> None:
    """Add a start, from `step` on, to environment.json."""
    try:
        starts = json.loads(path.read_text(encoding="utf-8"))["starts"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        starts = []
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    write_json(path, {"starts": [*starts, {"step": step, "time": now, **environment}]})


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
