"""Encoded latents and prompts on disk, each under the hash of all that it depends on.

An entry is one safetensors file, written under another name and renamed, so that two processes may fill one cache and
a kill leaves whole entries only. An entry that does not open is as good as absent: it is encoded again.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save_file
from torch import Tensor

from ..errors import PalateError


class TensorCache:
    """A folder of named tensors by key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: str) -> Path:
        """Where an entry lies; 256 folders keep each of them short."""
        return self.folder / key[:2] / f"{key}.safetensors"

    def __contains__(self, key: str) -> bool:
        """Whether there is a whole entry; opening one reads its header, which a cut file contradicts."""
        try:
            with safe_open(self.path(key), framework="pt"):
                return True
        except (FileNotFoundError, SafetensorError, OSError):
            return False

    def get(self, key: str) -> dict[str, Tensor] | None:
        """An entry's tensors, or None if there is none that opens."""
        try:
            return load(self.path(key).read_bytes())  # small files: reading is four times as fast as mapping
        except (FileNotFoundError, SafetensorError, OSError):
            return None

    def put(self, key: str, tensors: dict[str, Tensor]) -> None:
        """Write an entry. Raises PalateError if the disk will not take it; what is there stays whole."""
        path = self.path(key)
        part = path.with_suffix(f".{os.getpid()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, part)
            part.replace(path)
        except (OSError, SafetensorError) as error:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise PalateError(
                f"the cache {self.folder} cannot be written ({reason}); free some space or point data.cache elsewhere, "
                "then run the same command again: what is cached stays"
            ) from error
