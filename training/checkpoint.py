"""Checkpoints: whole and verified, or not there.

A checkpoint is a folder `step-00000100` with tensors in safetensors, optimizer state in torch's format (loaded with
`weights_only`), the loop's state in JSON, and a manifest of every file's size and hash. It is written under another
name and renamed when everything is on the disk, so a kill at any moment leaves the previous ones as they were.
"""

from __future__ import annotations

import errno
import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import PalateError
from .disk import full_disk_explained, hashed, remove_tree, whole_folder

_NAME = re.compile(r"step-(\d{8,})")
_MANIFEST = "manifest.json"
_STATE = "state.json"


def write(
    folder: Path,
    step: int,
    *,
    tensors: Mapping[str, Mapping[str, Tensor]],
    objects: Mapping[str, Any],
    state: Mapping[str, Any],
    keep: int,
) -> Path:
    """Write checkpoint `step` into `folder` and remove all but the newest `keep`.

    `tensors` are named sets of tensors by name, `objects` what torch's weights-only format takes, `state` is JSON.

    Raises PalateError, with nothing half-written left, when a tensor is not finite or the disk is full.
    """
    for name, group in tensors.items():
        _require_finite(name, group, step, folder)
    path = folder / f"step-{step:08d}"
    with full_disk_explained(f"writing checkpoint {path}"), _as_os_error(), whole_folder(path) as partial:
        for name, group in tensors.items():
            plain = {key: value.detach().cpu().contiguous() for key, value in group.items()}
            save_file(plain, partial / f"{name}.safetensors")
        for name, value in objects.items():
            torch.save(value, partial / f"{name}.pt")
        (partial / _STATE).write_text(json.dumps(state), encoding="utf-8")
        files = {file.name: {"bytes": file.stat().st_size, "blake2b": _hash(file)} for file in partial.iterdir()}
        (partial / _MANIFEST).write_text(json.dumps({"step": step, "files": files}, indent=2), encoding="utf-8")
    _prune(folder, step, keep)
    return path


def latest(folder: Path) -> Path | None:
    """The newest checkpoint whose every file has its manifest's size and hash; others are warned of and skipped."""
    for path in reversed(_all(folder)):
        fault = verify(path)
        if fault is None:
            return path
        warnings.warn(f"checkpoint {path} is skipped: {fault}", stacklevel=2)
    return None


def newest_step(folder: Path) -> int:
    """The step of the newest checkpoint, looked at by its name alone; 0 without one."""
    return max(map(step_of, _all(folder)), default=0)


def verify(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        files = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))["files"]
        expected = {name: (entry["bytes"], entry["blake2b"]) for name, entry in files.items()}
    except FileNotFoundError:
        return "it has no manifest"
    except (ValueError, KeyError, TypeError, AttributeError):
        return "its manifest is damaged"
    if _STATE not in expected:
        return "its manifest is damaged"
    for name, (size, digest) in expected.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes instead of {size}"
        if _hash(file) != digest:
            return f"{name} was changed or damaged"
    return None


def step_of(path: Path) -> int:
    """The number of optimizer steps that a checkpoint has behind it."""
    return int(path.name.removeprefix("step-"))


def read_tensors(path: Path, name: str) -> dict[str, Tensor]:
    """A named set of tensors, on the CPU; `{}` when the checkpoint has none of that name."""
    file = path / f"{name}.safetensors"
    return load_file(file) if file.exists() else {}


def read_object(path: Path, name: str) -> Any:
    """An object, its tensors on the CPU; None when the checkpoint has none of that name."""
    file = path / f"{name}.pt"
    return torch.load(file, map_location="cpu", weights_only=True) if file.exists() else None


def read_state(path: Path) -> dict[str, Any]:
    """The loop's state."""
    return json.loads((path / _STATE).read_text(encoding="utf-8"))


def _all(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), key=step_of)


def _prune(folder: Path, step: int, keep: int) -> None:
    # Those beyond `step` are damaged ones that this run resumed before: counted as the newest, they would push out
    # the good ones.
    older = [path for path in _all(folder) if step_of(path) <= step]
    for path in set(_all(folder)) - set(older[-keep:]):
        remove_tree(path)


def _require_finite(name: str, tensors: Mapping[str, Tensor], step: int, folder: Path) -> None:
    norms = [tensor.detach().float().norm() for tensor in tensors.values()]
    if norms and not torch.isfinite(torch.stack(norms)).all():
        good = _all(folder)
        kept = f"the last good checkpoint is {good[-1]}" if good else "there is no earlier checkpoint"
        raise PalateError(
            f"the {name} are no longer finite after step {step}, so no checkpoint is written; {kept}; "
            "lower training.learning_rate or use training.precision=bf16 or no"
        )


@contextmanager
def _as_os_error() -> Iterator[None]:
    # safetensors and torch report a full disk with errors of their own kind.
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        number = re.search(r"os error (\d+)", str(error))
        if not number and "PytorchStreamWriter" not in str(error) and "inline_container" not in str(error):
            raise
        code = int(number[1]) if number else errno.ENOSPC
        raise OSError(code, os.strerror(code)) from error


def _hash(file: Path) -> str:
    return hashed(file, blake2b(digest_size=32)).hexdigest()
