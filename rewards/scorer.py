"""A reward with the settings that decide its numbers: what a log is keyed by and a table is labelled with."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import UserError
from ..training.disk import hashed
from .function import FunctionReward, from_function
from .registry import find_entry, open_reward
from .reward import Reward

if TYPE_CHECKING:
    from PIL import Image

UNNAMED = "made"
"""The setting of a scorer that nobody has named: another text for each that is made."""
_PLACED = ("device",)  # where a reward is computed is no part of what it says


@dataclass(frozen=True)
class Service:
    """The other process that computes a scorer: its address, and the versions of the libraries there."""

    address: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Label:
    """What is said of a scorer beside its numbers.

    name           its column
    settings       what decides its numbers, JSON values; scores on record are reused where they are equal
    scale          what its values are
    needs_prompts  see `Scorer`
    service        see `Scorer`
    """

    name: str
    settings: Mapping[str, Any]
    scale: str
    needs_prompts: bool = True
    service: Service | None = None

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits of name and settings."""
        text = json.dumps([self.name, dict(self.settings)], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Scorer:
    """A reward for `score_images`.

    Args:
        name: its column.
        reward: a `PixelReward` or `BatchedReward` is scored in batches, another one picture by picture.
        settings: see `Label`.
        needs_prompts: whether a picture without a prompt is a failure. A scorer that needs none is given none, and
            has one score for a picture, whatever its prompts.
        scale: see `Label`.
        service: who computes it, where that is not this process.
    """

    name: str
    reward: Reward
    settings: Mapping[str, Any] = field(default_factory=dict)
    needs_prompts: bool = True
    scale: str = ""
    service: Service | None = None

    @property
    def label(self) -> Label:
        """The scorer without its networks."""
        return Label(self.name, self.settings, self.scale, self.needs_prompts, self.service)

    @property
    def fingerprint(self) -> str:
        """See `Label`."""
        return self.label.fingerprint


def open_scorer(name: str, **assets: Any) -> Scorer:
    """Open a reward of the zoo by name; `assets` as for `open_reward`. Local files are hashed.

    What else decides a reward's numbers, such as the words of a question, it tells by an attribute `settings`.

    Raises:
        UserError: the name or an asset is unknown, the weights cannot be found or read, or the reward's own settings
            are more than texts, numbers, and lists and mappings of them.
    """
    entry = find_entry(name)
    reward = open_reward(name, **assets)
    told = _told(reward)
    given = {key: _identity(value) for key, value in sorted(assets.items()) if key not in _PLACED}
    told["palate"] = __version__  # another version may prepare pictures or put questions in another way
    if isinstance(entry, EntryPoint):
        package = f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
        # What palate knows counts more than what a reward says of itself: a path is no content.
        return Scorer(name, reward, {**told, "package": package, **given}, _needs_prompts(reward))
    if entry.input:
        told["input"] = entry.input
    if entry.weights is None:
        return Scorer(name, reward, told, entry.needs_prompts, entry.scale)
    settings = {"weights": _hub_identity(entry.weights), "dtype": entry.dtype} | given | told
    return Scorer(name, reward, settings, entry.needs_prompts, entry.scale)


def scorer_of(reward: Reward | Callable[[str, Image.Image], float], **settings: Any) -> Scorer:
    """A scorer around a reward that is open already, or around a function of prompt and picture, under its own name.

    What it is cannot be seen from outside: a network may have been trained since, a function edited. So a later run
    takes over its scores only where `settings` (or a function's `version`) say that it is the same, as in
    `scorer_of(reward, weights="run 3")`; else every scorer that is made here counts as another one. Make a new one when
    the reward has changed.

    Args:
        settings: whatever tells this reward from others of its name: texts, numbers, and lists and mappings of them.

    Raises:
        UserError: a setting, of these or of the reward's own, is something else: what it holds would not be seen; or
            the function has no name of its own.
    """
    if not isinstance(reward, Reward):
        reward = _named(reward)
    _require_plain(settings, reward)
    if isinstance(reward, FunctionReward) and reward.version:
        settings = {"version": reward.version, **settings}
    told = _told(reward) | (settings or {UNNAMED: uuid.uuid4().hex}) | {"palate": __version__}
    return Scorer(reward.name, reward, told, _needs_prompts(reward))


def _named(function: Callable[[str, Image.Image], float]) -> FunctionReward:
    name = getattr(function, "__name__", "")
    if not name.isidentifier():  # a lambda, a partial
        raise UserError(f"{function!r} has no name for its column: give it one with from_function(name, function)")
    return from_function(name, function)


def open_scorers(
    names: Sequence[str], assets: Mapping[str, Mapping[str, Any]] | None = None, **shared: Any
) -> list[Scorer]:
    """Open several; `assets` are per name and `shared` for all, such as `device` and `dtype`.

    Raises:
        UserError: a name comes twice or is unknown, assets are given for one that is not asked for, or one cannot be
            opened.
    """
    assets = assets or {}
    require_names(names, assets)
    return [open_scorer(name, **{**shared, **assets.get(name, {})}) for name in names]


def require_names(names: Sequence[str], assets: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise UserError where a name comes twice or is unknown, or assets are for one that is not among the names."""
    for name in [*names, *assets]:
        find_entry(name)
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"the scorer {twice} is named twice")
    if stray := next((name for name in assets if name not in names), None):
        raise UserError(f"there are weights for {stray}, which is not among the scorers {', '.join(names)}")


def needing_prompts(names: Sequence[str]) -> list[str]:
    """Those of palate's own scorers that need prompts, told without opening them."""
    entries = map(find_entry, names)
    return [entry.name for entry in entries if not isinstance(entry, EntryPoint) and entry.needs_prompts]


def _told(reward: Reward) -> dict[str, Any]:
    """What a reward says of itself."""
    settings = getattr(reward, "settings", None)
    if settings is None:
        return {}
    if not isinstance(settings, Mapping):
        raise UserError(f"the settings of {reward.name} are a {type(settings).__name__}; they must be a mapping")
    _require_plain(settings, reward)
    return dict(settings)


def _require_plain(settings: Mapping[Any, Any], reward: Reward) -> None:
    for key, value in settings.items():
        if not (isinstance(key, str) and _is_plain(value)):
            what = value if isinstance(value, float) else f"a {type(value).__name__}"
            raise UserError(f"the setting {key} of {reward.name} is {what}; give texts, numbers, or lists of them")


def _is_plain(value: Any) -> bool:
    """Whether its JSON tells all of it, and the same in every process."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(one) for key, one in value.items())
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, (bool, int, str))


def _needs_prompts(reward: Reward) -> bool:
    return bool(getattr(reward, "needs_prompts", True))


def _identity(value: Any) -> Any:
    """A local path as the digest of its content, a hub id or a setting as its text."""
    if isinstance(value, (str, Path)):
        path = Path(value).expanduser()
        with contextlib.suppress(OSError):  # a text that is too long for a path is none
            if path.is_file():
                return f"sha256 {_digest(path)}"
            if path.is_dir():
                return f"sha256 {folder_digest(path)}"
    if isinstance(value, (list, tuple)):
        return [_identity(one) for one in value]
    if isinstance(value, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", value):
        return _hub_identity(value)
    return value if isinstance(value, (bool, int, float, str)) else str(value).removeprefix("torch.")


def _hub_identity(repository: str) -> str:
    """A hub id with the commit that was opened: its owner may publish other weights under the name."""
    from huggingface_hub import constants

    reference = Path(constants.HF_HUB_CACHE, f"models--{repository.replace('/', '--')}", "refs", "main")
    try:
        return f"hub {repository} {reference.read_text(encoding='utf-8').strip()}"
    except OSError:  # not taken from the hub through its cache
        return f"hub {repository}"


def _digest(file: Path) -> str:
    """Of the content, as `sha256sum` tells it."""
    return hashed(file, hashlib.sha256()).hexdigest()


def folder_digest(folder: Path) -> str:
    """Of the names and contents of all files in it and below, linked folders included.

    Not of what is there for people or for version control; an index may well send its reader into any other folder.
    """
    files: dict[Path, Path] = {}
    seen: set[Path] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        real = Path(root).resolve()
        folders[:] = [name for name in folders if name not in _NOT_READ]
        if real in seen:  # a link back up
            folders.clear()
            continue
        seen.add(real)
        files |= {(Path(root) / name).relative_to(folder): Path(root) / name for name in names}
    wanted = sorted(name for name, file in files.items() if _counts(name) and file.is_file())
    listed = "".join(f"{_digest(files[name])}  {name.as_posix()}\n" for name in wanted)
    return hashlib.sha256(listed.encode("utf-8", "surrogateescape")).hexdigest()


_NOT_READ = frozenset({".git", ".cache", ".gitattributes", ".gitignore", ".DS_Store", "__pycache__"})


def _counts(name: Path) -> bool:
    return not (name.name in _NOT_READ or name.name.startswith("README") or name.suffix.lower() == ".md")
