"""Rewards by name: palate's own (see `zoo`) and those of other packages.

Nothing heavy is imported before a reward is opened. Another package adds one under the entry point group
`palate.rewards`: the entry's name is the reward's, its object is called with assets (`weights="..."`, `device`,
`dtype`, ...) and returns a `Reward`; where that has no attribute `needs_prompts`, it is taken to need them.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from ..errors import PalateError, UserError
from .zoo import ENTRIES, Entry

if TYPE_CHECKING:
    import torch

    from .reward import Reward

GROUP = "palate.rewards"
"""The entry point group of other packages' rewards."""


def plugins() -> dict[str, EntryPoint]:
    """Rewards that other packages bring, by name; palate's own names cannot be taken. Nothing is imported."""
    own = {entry.name for entry in ENTRIES}
    return {point.name: point for point in entry_points(group=GROUP) if point.name not in own}


def find_entry(name: str) -> Entry | EntryPoint:
    """The entry of a name: palate's own or another package's.

    Raises:
        UserError: there is none; the message names the nearest.
    """
    for entry in ENTRIES:
        if entry.name == name:
            return entry
    others = plugins()
    if name in others:
        return others[name]
    known = [*(entry.name for entry in ENTRIES), *others]
    plain = {_plain(other): other for other in known}
    near = difflib.get_close_matches(_plain(name), plain, n=1, cutoff=0.5)
    hint = f"did you mean {plain[near[0]]}? " if near else ""
    raise UserError(f"there is no scorer {name!r}; {hint}known are {', '.join(known)}")


def open_reward(name: str, **assets: Any) -> Reward:
    """Open a reward by its name.

    Args:
        assets: the paths or hub ids that the entry names (`weights`, `tokenizer`, ...; the official ones are taken from
            the hub where they are left out), and the opener's other arguments, such as `device` and `dtype`.

    Raises:
        UserError: the name or an asset is unknown, an asset is an empty text, the weights cannot be found or read, or
            another package's opener raises.
    """
    entry = find_entry(name)
    if isinstance(entry, EntryPoint):
        return _open_plugin(entry, assets)
    for key, value in assets.items():
        if isinstance(value, str) and not value.strip():  # openers would take it for None, the official one
            raise UserError(f"{name} got {value!r} as its {key}; give a path or a hub id, or leave it out")
    module, _, function = entry.opener.partition(":")
    opener = getattr(importlib.import_module(f".{module}", __package__), function)
    if entry.weights is None:
        assets = {key: value for key, value in assets.items() if key not in ("device", "dtype")}  # nothing to place
    else:
        assets = {"dtype": _dtype(entry.dtype), **assets}
    given = {entry.assets.get(key, key): value for key, value in assets.items()}
    try:
        call = inspect.signature(opener).bind(**entry.preset, **given)
    except TypeError as error:
        known = _list({**entry.assets, **entry.options})
        raise UserError(f"{name} cannot be opened so ({error}); its assets are {known}") from error
    return opener(*call.args, **call.kwargs)


def _dtype(name: str) -> torch.dtype:
    import torch

    return getattr(torch, name)


def _open_plugin(point: EntryPoint, assets: Mapping[str, Any]) -> Reward:
    from .reward import Reward

    with _told(point, "imported"):
        opener = point.load()
    with _told(point, "opened"):
        reward = opener(**assets)
    if not isinstance(reward, Reward):
        raise UserError(f"{point.name}, which is {point.value}, gives a {type(reward).__name__}, which is no reward")
    return reward


@contextmanager
def _told(point: EntryPoint, done: str) -> Iterator[None]:
    """Whatever another package raises as one line that names it."""
    import torch

    try:
        yield
    except (PalateError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        lines = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
        raise UserError(f"{point.name}, which is {point.value}, cannot be {done} ({reason})") from error


def _plain(name: str) -> str:
    """`HPS-v2.1` and `hps_v2.1` are meant as `hpsv2.1`."""
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")


def _list(names: Mapping[str, Any]) -> str:
    return ", ".join(names) or "none"
