"""Which weights a model or a LoRA holds, as a short text, so that what is kept is found again only for the same."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path

from ..datasets.digest import digest
from .models.checkpoint import Checkpoint

_PIECE = 32 << 20


def fingerprint(checkpoint: Checkpoint, parts: tuple[str, ...]) -> str:
    """A hash of which weights a checkpoint's parts hold: hub id and revision, or the files' own bytes, read whole."""
    folder = Path(checkpoint.path).expanduser()
    if not folder.is_dir():
        return digest(checkpoint.path, checkpoint.revision or "", *parts)
    return _of_files([file for part in parts for file in (folder / part).glob("*")])


def whole_fingerprint(checkpoint: Checkpoint) -> str:
    """A hash of all of a checkpoint that a picture depends on: every part that its index names, and the index."""
    parts = tuple(sorted(name for name, value in checkpoint.index.items() if isinstance(value, list)))
    return digest(json.dumps(checkpoint.index, sort_keys=True), fingerprint(checkpoint, parts))


def lora_fingerprint(lora: str) -> str:
    """A hash of a LoRA's files, read whole: a file, the files of a folder, or the name of one on the hub."""
    path = Path(lora)
    files = [path] if path.is_file() else list(path.glob("*"))
    return _of_files(files) if files else digest(lora)


def _of_files(files: list[Path]) -> str:
    """Of names and contents. Pieces are hashed side by side: SDXL's ten gigabytes in seconds, not in a minute."""
    whole = sorted(file for file in files if file.is_file())
    pieces = [(file, start) for file in whole for start in range(0, max(1, file.stat().st_size), _PIECE)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        hashes = list(threads.map(lambda piece: _hash(*piece), pieces))
    return digest(*(part for (file, _), content in zip(pieces, hashes, strict=True) for part in (file.name, content)))


def _hash(file: Path, start: int) -> bytes:
    with file.open("rb") as stream:
        stream.seek(start)
        return blake2b(stream.read(_PIECE), digest_size=16).digest()
