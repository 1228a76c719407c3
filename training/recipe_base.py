"""A recipe's `base`: another recipe, of which it says only what differs."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any

from ..errors import UserError
from .recipe_file import read_yaml

_PACKAGE = Path(__file__).parents[1]
FOLDERS = (_PACKAGE / "t2i" / "recipes", _PACKAGE / "rewards" / "learn" / "recipes")
"""Where the shipped recipes lie, which go by their names alone."""
_WHOLE = "method"  # the settings of one method mean nothing to another


def read_with_base(path: Path) -> dict[str, Any]:
    """The values in the recipe at `path`, laid over those of its `base` if it has one.

    A base is a shipped recipe's name, or a file seen from the recipe's own folder; it may have a base itself. Sections
    are merged key by key, however deep; `method` is replaced as a whole.

    Raises UserError for a file that cannot be read, and for a base that is no recipe or leads back to its beginning.
    """
    return _read(path, ())


def shipped_file(name: str) -> Path:
    """The file of a shipped recipe. Raises UserError for a name that is not one."""
    wanted = name.removesuffix(".yaml")
    files = {file.stem: file for folder in FOLDERS for file in folder.glob("*.yaml")}
    if wanted not in files:
        near = difflib.get_close_matches(wanted, sorted(files), n=1)
        guess = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"there is no recipe {name}; {guess}`palate recipe list` names them all")
    return files[wanted]


def lay_over(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """`base` with what `own` says: mappings key by key, all else replaced."""
    merged = dict(base)
    for key, value in own.items():
        below = merged.get(key)
        merged[key] = lay_over(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _read(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    own = read_yaml(path)
    if "base" not in own:
        return own
    file = _find(own.pop("base"), path)
    chain = (*above, path.resolve())
    if file.resolve() in chain:
        round_trip = " -> ".join(str(step) for step in (*chain, file.resolve()))
        raise UserError(f"recipe {path}: `base` leads back to where it began: {round_trip}")
    method = own.get(_WHOLE)
    if isinstance(method, dict) and "name" not in method:
        raise UserError(
            f"recipe {path}: `method` has no name; it is replaced as a whole, so say its `name` and all its settings"
        )
    base = _read(file, chain)
    if _WHOLE in own:
        base.pop(_WHOLE, None)
    return lay_over(base, own)


def _find(named: Any, path: Path) -> Path:
    where = f"recipe {path}: `base` is {named!r}"
    if not isinstance(named, str) or not named:
        raise UserError(f"{where}, but it takes one recipe: a name from `palate recipe list`, or a file")
    file = path.parent / os.path.expanduser(named)
    if file.is_file():
        return file
    try:
        return shipped_file(named)
    except UserError as error:
        told = str(error)
    if file.is_dir():
        told = f"that is a folder; give the recipe in it, such as {named.rstrip('/')}/recipe.yaml"
    elif file.suffix in (".yaml", ".yml"):
        told = f"there is no file {file}"
    elif "/" in named:
        told = "a base is a recipe's name or file; a checkpoint or hub id belongs in model.path"
    raise UserError(f"{where}, but {told}")
