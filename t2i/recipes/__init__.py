"""The shipped recipes: YAML files, each with a first line that says what it does.

Those of text-to-image models lie beside this file, those of reward models in `rewards/learn/recipes`.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from ...errors import UserError

FOLDERS = (Path(__file__).parent, Path(__file__).parents[2] / "rewards" / "learn" / "recipes")


@dataclass(frozen=True)
class ShippedRecipe:
    """A recipe that comes with palate."""

    name: str
    about: str
    file: Path


def shipped() -> list[ShippedRecipe]:
    """All shipped recipes, by name."""
    files = sorted((file for folder in FOLDERS for file in folder.glob("*.yaml")), key=lambda file: file.stem)
    return [ShippedRecipe(file.stem, _first_comment(file), file) for file in files]


def recipe_file(name: str) -> Path:
    """The file of a shipped recipe. Raises UserError for a name that is not one."""
    found = {recipe.name: recipe.file for recipe in shipped()}
    wanted = name.removesuffix(".yaml")
    if wanted not in found:
        near = difflib.get_close_matches(wanted, found, n=1)
        guess = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"there is no recipe {name}; {guess}palate ships {', '.join(found)}")
    return found[wanted]


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
    """Write a shipped recipe to `target`, or to its own name in the working folder.

    Raises UserError for an unknown name, or if the target is there already.
    """
    source = recipe_file(name)
    target = target or Path(source.name)
    if target.is_dir():
        target = target / source.name
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(source.read_text(encoding="utf-8"))
    except FileExistsError:
        raise UserError(f"{target} exists; name another file") from None
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror}") from None
    return target


def _first_comment(file: Path) -> str:
    return file.read_text(encoding="utf-8").splitlines()[0].removeprefix("#").strip()
