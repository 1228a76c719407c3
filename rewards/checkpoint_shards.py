"""A checkpoint in a folder as transformers writes it: one file of tensors, or an index and its shards."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UserError
from .weights import load_tensors

_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SINGLE = ("model.safetensors", "pytorch_model.bin")


def find_checkpoint(path: str | Path | None, repository: str) -> Path:
    """The folder at `path`, or the one that the hub has under that id or, where it is None, under `repository`.

    Raises:
        UserError: there is no such folder, or the hub cannot be reached.
    """
    if path is not None and Path(path).expanduser().is_dir():
        return Path(path).expanduser()
    if path is not None and not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(path)):
        raise UserError(f"{path} is no folder; give the folder of {repository}, or none to take it from the hub")
    return _download(str(path or repository))


def load_checkpoint(folder: Path, device: torch.device | str, dtype: torch.dtype) -> dict[str, Tensor]:
    """All tensors of a checkpoint, those of floats in `dtype`; no more than one file is held beside them.

    Raises:
        UserError: the folder holds no checkpoint, a shard is missing, or a file cannot be read.
    """
    tensors: dict[str, Tensor] = {}
    for file in checkpoint_files(folder):
        for name, tensor in load_tensors(file).items():
            tensors[name] = tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype)
    return tensors


def checkpoint_files(folder: Path) -> list[Path]:
    """The files that hold a checkpoint's tensors; safetensors where there are both.

    Raises:
        UserError: there are none, the index cannot be read, or it names a file that is not there.
    """
    for index, single in zip(_INDEXES, _SINGLE, strict=True):
        if (folder / index).is_file():
            return _shards(folder / index)
        if (folder / single).is_file():
            return [folder / single]
    raise UserError(f"{folder} holds no weights; expected one of {', '.join([*_SINGLE, *_INDEXES])}")


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{index} is no index of shards ({error!r}); is the file whole?") from error
    files = [index.parent / Path(str(name)).name for name in names]  # an index names no other folder
    if missing := [file.name for file in files if not file.is_file()]:
        raise UserError(f"{index.parent} lacks {missing[0]} ({len(missing)} of {len(files)} shards); download it whole")
    return files


def _download(repository: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, allow_patterns=["config.json", *_INDEXES, *_weights()]))
    except MemoryError:
        raise
    except Exception as error:  # no network, no such model, no disk: the reasons are the hub's
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(
            f"{repository} cannot be taken from the hub ({reason}); download it and give its folder"
        ) from error


def _weights() -> list[str]:
    return [pattern for name in _SINGLE for pattern in (name, name.replace(".", "-*."))]
