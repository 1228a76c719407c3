"""Which weights a model or a LoRA holds, as a short text, so that what is kept is found again only for the same."""

from __future__ import annotations

import json
from hashlib import blake2b
from pathlib import Path

from ..training.disk import hashed
from .cache import digest
from .models.checkpoint import Checkpoint


def fingerprint(checkpoint: Checkpoint, parts: tuple[str, ...]) -> str:
    """A hash of which weights a checkpoint's parts hold: hub id and revision, or the files' own bytes at both ends."""
    folder = Path(checkpoint.path).expanduser()
    if not folder.is_dir():
        return digest(checkpoint.path, checkpoint.revision or "", *parts)
    found = []
    for file in sorted(file for part in parts for file in (folder / part).glob("*") if file.is_file()):
        found += [file.name, _ends(file)]
    return digest(*found)


def whole_fingerprint(checkpoint: Checkpoint) -> str:
    """A hash of all of a checkpoint that a picture depends on: every part that its index names, and the index."""
    parts = tuple(sorted(name for name, value in checkpoint.index.items() if isinstance(value, list)))
    return digest(json.dumps(checkpoint.index, sort_keys=True), fingerprint(checkpoint, parts))


def lora_fingerprint(lora: str) -> str:
    """A hash of a LoRA's files, read whole: a file, the files of a folder, or the name of one on the hub."""
    path = Path(lora)
    files = [path] if path.is_file() else sorted(file for file in path.glob("*") if file.is_file())
    if not files:
        return digest(lora)
    return digest(*(part for file in files for part in (file.name, hashed(file, blake2b(digest_size=16)).digest())))


def _ends(file: Path, length: int = 1 << 20) -> bytes:
    """A file's size, first and last megabyte: weights that differ differ there, and T5 is not read whole."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(length)
        stream.seek(max(0, size - length))
        return size.to_bytes(8, "little") + head + stream.read()
