"""What the verbs that score take alike: which scorers, with which weights, and where they run."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from ..errors import UserError

if TYPE_CHECKING:
    import torch

WITH = "Scorers, with commas between; `palate score --list` names them."
WEIGHTS = (
    "NAME=PATH or NAME.ASSET=PATH (an asset is tokenizer, head, ...), or another hub id, in place of the official; or "
    "a setting, as hpsv2.antialias=false; may be given again."
)
DEVICE = "cpu, cuda, ...; auto: a GPU where there is one."
DTYPE = "Of the networks: float32, bfloat16 or float16; else that of each scorer's published numbers."
BATCH = "Pictures at once; 128 on a GPU and 32 on a CPU, halved where memory is short."


def read_names(text: str) -> list[str]:
    """`"pickscore, hpsv2.1"` as names.

    Raises:
        UserError: there is no scorer of a name.
    """
    from ..rewards.registry import find_entry

    names = split_names(text)
    for name in names:
        find_entry(name)
    return names


def split_names(text: str) -> list[str]:
    """`"pickscore, hpsv2.1"` as names, of whatever."""
    return [name.strip() for name in text.split(",") if name.strip()]


def read_assets(weights: list[str]) -> dict[str, dict[str, str | float]]:
    """`["pickscore=p", "mps.threshold=0.01"]` by scorer and asset or setting. A scorer's own name may hold a dot.

    Raises:
        UserError: a text is of another form, a scorer has no such asset, a setting is of another type, or one is named
            twice.
    """
    from importlib.metadata import EntryPoint

    from ..rewards.registry import find_entry

    found: dict[str, dict[str, str | float]] = {}
    for text in weights:
        target, equals, path = text.partition("=")
        if not (target and equals and path):
            raise UserError(f"--weights is {text!r}; it is NAME=PATH, such as pickscore=/models/PickScore_v1")
        name, asset = target, "weights"
        head, dot, tail = target.rpartition(".")
        if dot and not tail.isdecimal():
            name, asset = head, tail
        entry = find_entry(name)
        options = {} if isinstance(entry, EntryPoint) else entry.options
        if not isinstance(entry, EntryPoint) and asset not in {*entry.assets, *options}:
            raise UserError(f"{name} has no asset {asset!r}; it has {', '.join([*entry.assets, *options]) or 'none'}")
        if asset in found.setdefault(name, {}):
            raise UserError(f"--weights names the {asset} of {name} twice; give {found[name][asset]} or {path}")
        found[name][asset] = _setting(target, options[asset], path) if asset in options else path
    return found


def _setting(target: str, kind: type, text: str) -> float:
    if kind is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    with contextlib.suppress(ValueError):
        if kind is not bool:
            return kind(text)
    wanted = {bool: "true or false", int: "a whole number", float: "a number"}[kind]
    raise UserError(f"--weights {target} is {text!r}; it is {wanted}")


def place(device: str, dtype: str | None) -> tuple[torch.device, torch.dtype | None]:
    """The device, and the precision where one is asked for.

    Raises:
        UserError: the precision is unknown, or the device is not here.
    """
    if dtype not in (None, "float32", "bfloat16", "float16"):
        raise UserError(f"--dtype is {dtype!r}; it is float32, bfloat16 or float16")
    import torch

    if device == "auto":
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=device).device, dtype and getattr(torch, dtype)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {device!r} is not here ({str(error).splitlines()[0]})") from None


def block_size(asked: int | None, device: torch.device) -> int:
    """Pictures of one forward pass where none are asked for: what keeps the device busy."""
    return asked or (32 if device.type == "cpu" else 128)


def launched() -> tuple[int, int]:
    """This process among those of `accelerate launch` or torchrun, which tell by the environment."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def read_shard(text: str) -> tuple[int, int]:
    """`2/3` as (1, 3).

    Raises:
        UserError: it is no part of a whole.
    """
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise UserError(f"--shard is {text!r}; it is I/N with I from 1 to N, such as 1/4")
    return int(number) - 1, int(count)
