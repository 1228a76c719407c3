"""Recipes: YAML and command-line overrides into a typed model, with one clear line for every mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from ..errors import UserError
from .recipe_base import read_with_base
from .recipe_fault import boolean_for_number, first_fault
from .recipe_file import parse_yaml

Model = TypeVar("Model", bound=BaseModel)


def load_recipe(path: str | Path, overrides: list[str], schema: type[Model], name: str | None = None) -> Model:
    """The recipe at `path` with `a.b=value` overrides, each value read as YAML, as a `schema`.

    Raises UserError, in one line, for anything wrong with the file, an override, a key or a value; it calls the recipe
    `name` where the user typed another one than the path.
    """
    return check_recipe(read_recipe(path, overrides), [], schema, name or str(path))


def read_recipe(path: str | Path, overrides: list[str]) -> dict[str, Any]:
    """The values in the recipe at `path` with the overrides, not yet checked: for who must choose a schema by them.

    The values of its `base` are among them, see `read_with_base`; overrides come last.

    Raises UserError for a file that cannot be read, a base that is none, or an override that is none.
    """
    values = read_with_base(Path(path))
    for override in overrides:
        _override(values, override)
    return values


def check_recipe(values: dict[str, Any], overrides: list[str], schema: type[Model], name: str) -> Model:
    """As `load_recipe`, for `values` that are not from a file; `name` is what a UserError calls them."""
    for override in overrides:
        _override(values, override)
    try:
        recipe = schema.model_validate(values)
    except ValidationError as error:
        raise UserError(f"recipe {name}: {first_fault(error, values, schema)}") from None
    if key := boolean_for_number(values, recipe.model_dump()):
        raise UserError(f"recipe {name}: `{key}` is true or false, and takes a number")
    return recipe


def dump_recipe(recipe: BaseModel | dict[str, Any]) -> str:
    """A recipe as YAML that `load_recipe` reads back to the same values."""
    values = recipe.model_dump(mode="json") if isinstance(recipe, BaseModel) else recipe
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _override(values: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise UserError(f"override {override!r} must look like section.key=value, for instance training.steps=100")
    if keys == ["base"]:
        raise UserError(f"override {override!r}: a base is named in the recipe's file; put `base` there")
    place = values
    for depth, key in enumerate(keys[:-1], 1):
        inner = place.get(key)
        if inner is None:
            inner = place[key] = {}
        if not isinstance(inner, dict):
            raise UserError(f"override {override!r}: {'.'.join(keys[:depth])} is {inner!r} and has no keys of its own")
        place = inner
    place[keys[-1]] = parse_yaml(text, f"override {override!r}")
