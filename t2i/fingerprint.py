"""Which weights a model or a LoRA holds, as a short text, so that what is kept is found again only for the same."""

from __future__ import annotations

import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path

from ..datasets.digest import digest
from .models.checkpoint import Checkpoint

_PIECE = 32 << 20
_TEXTS = (".json", ".txt", ".model")
_NOTE = re.compile(r"readme|licen[cs]e|notice", re.IGNORECASE)


def fingerprint(checkpoint: Checkpoint, parts: tuple[str, ...]) -> str:
    """A hash of which weights a checkpoint's parts hold: hub id and revision, or the files' own bytes, read whole."""
    folder = Path(checkpoint.path).expanduser()
    if not folder.is_dir():
        return digest(checkpoint.path, checkpoint.revision or "", *parts)
    files = [file for part in parts for file in checkpoint.weight_files(part)]
    # The settings and vocabularies beside them; what a file browser or another variant leaves there does not count.
    texts = (file for part in parts for file in (folder / part).glob("[!.]*") if ".index." not in file.name)
    return _of_files([*files, *(file for file in texts if file.suffix in _TEXTS and not _NOTE.match(file.name))])


def whole_fingerprint(checkpoint: Checkpoint) -> str:
    """A hash of all of a checkpoint that a picture depends on: every part that its index names, and the index."""
    parts = tuple(sorted(name for name, value in checkpoint.index.items() if isinstance(value, list)))
    return digest(json.dumps(checkpoint.index, sort_keys=True), fingerprint(checkpoint, parts))


def training_fingerprint(checkpoint: Checkpoint) -> str:
    """A hash of all of a checkpoint that a training step depends on: the safety checker, for one, is no part of it."""
    family = checkpoint.family
    return fingerprint(checkpoint, (family.network, "vae", *family.text_encoders, *family.tokenizers, "scheduler"))


def lora_fingerprint(lora: str) -> str:
    """A hash of a LoRA's files, read whole: a file, the files of a folder, or the name of one on the hub."""
    path = Path(lora)
    files = [path] if path.is_file() else list(path.glob("[!.]*.safetensors"))
    return _of_files(files) if files else digest(lora)


def _of_files(files: list[Path]) -> str:
    """Of names and contents; files that stay as they are while this process lives are read once."""
    states = [(file, file.stat()) for file in sorted(files) if file.is_file()]
    return _contents(tuple((file, state.st_size, state.st_mtime_ns) for file, state in states))


@lru_cache(maxsize=64)
def _contents(files: tuple[tuple[Path, int, int], ...]) -> str:
    """Pieces are hashed side by side: SDXL's ten gigabytes in seconds, not in a minute."""
    pieces = [(file, start) for file, size, _ in files for start in range(0, max(1, size), _PIECE)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        hashes = list(threads.map(lambda piece: _hash(*piece), pieces))
    return digest(*(part for (file, _), content in zip(pieces, hashes, strict=True) for part in (file.name, content)))


def _hash(file: Path, start: int) -> bytes:
    with file.open("rb") as stream:
        stream.seek(start)
        return blake2b(stream.read(_PIECE), digest_size=16).digest()
