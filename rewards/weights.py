"""A reward's weights: find the file on disk or on the hub, and read its tensors without running code from it."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UserError

_SUFFIXES = frozenset({".bin", ".ckpt", ".pt", ".pth", ".safetensors"})


def find_weights(path: str | Path | None, repository: str, name: str, *others: str) -> Path:
    """The file at `path`, or `name` in that folder or repository; in the hub's `repository` where `path` is None.

    Args:
        path: a file, a folder, or a hub id of which nothing has the name here.
        others: what it may be called where there is no `name`.

    Raises:
        UserError: there is no such file, or the hub cannot be reached.
    """
    if path is None:
        return _download(repository, name)
    found = Path(path).expanduser()
    if not found.exists() and _is_hub_id(str(path)):
        try:
            return _download(str(path), name, *others)
        except UserError as error:
            raise UserError(f"{path} does not exist; as a hub id: {error}") from error
    if found.is_dir():
        found = next((found / one for one in (name, *others) if (found / one).is_file()), found / name)
    if not found.is_file():
        raise UserError(f"{found} does not exist; give the path of {name}, or none to take it from {repository}")
    return found


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a `.safetensors` file or a pickled one, on the CPU, with the file's own dtypes.

    A pickle is read with `weights_only`; tensors under the key `state_dict`, as in HPSv2's, or `model`, as in BLIP's,
    are taken from there.

    Raises:
        UserError: the file cannot be read, would run code, or holds no tensors.
    """
    try:
        if Path(path).suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is damaged or holds more than tensors, and palate runs no code from a file; "
            "save its state dict alone, best as .safetensors"
        ) from error
    except Exception as error:  # torch, zipfile and safetensors raise a dozen kinds on damaged files
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{path} cannot be read ({reason}); is the file whole?") from error
    state = loaded
    if isinstance(loaded, dict):
        state = next((loaded[key] for key in ("state_dict", "model") if isinstance(loaded.get(key), dict)), loaded)
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} holds no state dict, a table of names and tensors; is it the right file?")
    return dict(state)


def save_tensors(state: Mapping[str, Tensor], path: str | Path, notes: Mapping[str, str] | None = None) -> None:
    """Write a state dict as `.safetensors`, which `load_tensors` reads back, and `load_notes` the notes beside it."""
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    save_file(tensors, path, None if notes is None else dict(notes))


def load_notes(path: str | Path) -> dict[str, str]:
    """The metadata of a `.safetensors` file that `load_tensors` has read; none in a file of another kind."""
    if Path(path).suffix != ".safetensors":
        return {}
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def _is_hub_id(text: str) -> bool:
    """Whether it may be `owner/name`; what ends as weights do was meant for a file."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", text) is not None and Path(text).suffix not in _SUFFIXES


def _download(repository: str, name: str, *others: str) -> Path:
    """The first of the names that the hub has; where the hub is not reached, that its cache has."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    missing: Exception | None = None
    for one in (name, *others):
        try:
            return Path(hf_hub_download(repository, one))
        except MemoryError:
            raise
        except Exception as error:  # no network, no such file, no disk: the reasons are the hub's
            missing = missing or error
            if not isinstance(error, EntryNotFoundError):
                break
    reason = (str(missing).strip() or type(missing).__name__).splitlines()[0]
    raise UserError(
        f"{name} cannot be taken from {repository} on the hub ({reason}); download it and give its path"
    ) from missing
