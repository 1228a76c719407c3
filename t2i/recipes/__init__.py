"""The shipped recipes: YAML files, each with a first line that says what it does.

Those of text-to-image models lie beside this file, those of reward models in `rewards/learn/recipes`. A method's stand
on Diffusion-DPO's for the same model (`base`), and say what differs; a copy says all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ...errors import UserError
from ...training.recipe_base import FOLDERS, shipped_file
from .whole import whole_text

__all__ = ["FOLDERS", "ShippedRecipe", "copy_recipe", "find_recipe", "recipe_file", "shipped"]


@dataclass(frozen=True)
class ShippedRecipe:
    """A recipe that comes with palate; `method` is its method's name."""

    name: str
    method: str
    about: str
    file: Path


def shipped() -> list[ShippedRecipe]:
    """All shipped recipes, by name."""
    files = sorted((file for folder in FOLDERS for file in folder.glob("*.yaml")), key=lambda file: file.stem)
    return [_shipped(file) for file in files]


def recipe_file(name: str) -> Path:
    """The file of a shipped recipe. Raises UserError for a name that is not one."""
    return shipped_file(name)


def find_recipe(name: str) -> Path:
    """The file that a user means: one of the disk, or a shipped recipe by its name.

    Raises UserError for a name that is neither; a path that is not there is left to its reader.
    """
    file = Path(name)
    is_name = any(recipe.name == name for recipe in shipped()) and not file.is_file()  # a run folder may bear it too
    if not is_name and (file.exists() or file.suffix in (".yaml", ".yml") or len(file.parts) > 1):
        return file
    return recipe_file(name)


def copy_recipe(name: str, target: Path | None = None) -> Path:
    """Write a shipped recipe to `target`, or to its own name in the working folder; what its base says included.

    Raises UserError for an unknown name, or if the target is there already.
    """
    source = recipe_file(name)
    target = target or Path(source.name)
    if target.is_dir():
        target = target / source.name
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(whole_text(source))
    except FileExistsError:
        raise UserError(f"{target} exists; name another file") from None
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror}") from None
    return target


def _shipped(file: Path) -> ShippedRecipe:
    text = file.read_text(encoding="utf-8")
    method = re.search(r"^method:\n  name: (\w+)", text, re.MULTILINE)
    about = text.splitlines()[0].removeprefix("#").strip()
    return ShippedRecipe(file.stem, method[1] if method else "", about, file)
