"""Tastes on disk: `pal.safetensors` with the numbers and `pal.json` with shape and users."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import save_file
from torch import Tensor

from ...errors import UserError
from ...training.disk import whole_folder, write_json
from ..weights import load_tensors
from .tastes import Shape, Tastes

TENSORS, SETTINGS = "pal.safetensors", "pal.json"
_USERS = "users"  # the tensor of their weights, [users, K]; the model's own names all differ


def save_tastes(tastes: Tastes, folder: str | Path) -> None:
    """Write a folder; it appears whole or not at all.

    Raises:
        UserError: there is something that is not tastes.
    """
    path = Path(folder).expanduser()
    if path.exists() and not (path / SETTINGS).is_file() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} holds something else; name another folder")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tastes.model.state_dict().items()}
    tensors[_USERS] = torch.stack(list(tastes.users.values())).contiguous()
    settings = {"shape": asdict(tastes.shape), "features": tastes.features, "users": list(tastes.users)}
    with whole_folder(path) as partial:
        save_file(tensors, partial / TENSORS)
        write_json(partial / SETTINGS, settings)


def load_tastes(folder: str | Path, device: torch.device | str = "cpu") -> Tastes:
    """Read what `save_tastes` wrote.

    Raises:
        UserError: it is not there, damaged, or its two files do not belong together.
    """
    path = Path(folder).expanduser()
    settings = _read_settings(path / SETTINGS)
    shape, users = settings.shape, settings.users
    tensors = load_tensors(path / TENSORS)
    weights = tensors.pop(_USERS, torch.empty(0))
    model = shape.build(torch.Generator())
    if weights.shape != (len(users), shape.k) or _sizes(tensors) != _sizes(model.state_dict()):
        raise UserError(f"{path}: {TENSORS} does not hold what {SETTINGS} says; copy both from one place")
    model.load_state_dict(tensors)
    model.to(device).requires_grad_(False).eval()
    return Tastes(shape, model, dict(zip(users, weights, strict=True)), settings.features)


@dataclass(frozen=True)
class _Settings:
    shape: Shape
    features: str
    users: list[str]


def _read_settings(file: Path) -> _Settings:
    try:
        return TypeAdapter(_Settings).validate_json(file.read_bytes(), strict=True)
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); give a folder with {SETTINGS}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        reason = ": ".join((*map(str, first["loc"]), first["msg"]))
        raise UserError(f"{file} is damaged or of another kind ({reason}); fit the tastes again") from None


def _sizes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}
