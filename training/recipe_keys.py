"""Which keys a pydantic schema allows at a place, to tell the user."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel


def allowed_keys(schema: type[BaseModel], place: tuple[str | int, ...]) -> list[str]:
    """Keys that the models at `place` take, where `place` is the location of a pydantic error."""
    models = [schema]
    for part in place:
        inner = [model for outer in models for model in _models_of_key(outer, part)]
        if inner:
            models = inner
        elif isinstance(part, str):  # the tag or the class name that pydantic puts in for a member of a union
            models = [model for model in models if _tagged(model, part)] or models
    return sorted({key for model in models for key in model.model_fields})


def split_tags(schema: type[BaseModel], place: tuple[str | int, ...]) -> tuple[tuple[str | int, ...], str]:
    """The place as a user writes it, without the tags that pydantic puts in for members of unions, and the member that
    it ends in; "" where it ends in none."""
    models, typed, tag = [schema], [], ""
    for part in place:
        if any(part in model.model_fields for model in models) or not isinstance(part, str):
            typed.append(part)
            models, tag = [inner for model in models for inner in _models_of_key(model, part)] or models, ""
        elif members := [model for model in models if _tagged(model, part)]:
            models, tag = members, part
        else:
            typed.append(part)
    return tuple(typed), tag


def find_key(schema: type[BaseModel], name: str) -> str:
    """A dotted key of the schema that ends in `name`, or ''; rather one that is always there than some method's."""
    found = [(always, key) for always, key in _all_keys(schema) if key.rsplit(".", 1)[-1] == name]
    return next((key for always, key in found if always), found[0][1] if found else "")


def _all_keys(
    schema: type[BaseModel], prefix: str = "", depth: int = 4, always: bool = True
) -> Iterator[tuple[bool, str]]:
    """Every dotted key, and whether no member of a union must be chosen for it."""
    for name, field in schema.model_fields.items():
        yield always, f"{prefix}{name}"
        models = _models_in(field.annotation) if depth else []
        for model in models:
            yield from _all_keys(model, f"{prefix}{name}.", depth - 1, always and len(models) == 1)


def _models_of_key(model: type[BaseModel], part: str | int) -> list[type[BaseModel]]:
    for name, field in model.model_fields.items():
        if part in (name, field.alias):
            return _models_in(field.annotation)
    return []


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def _tagged(model: type[BaseModel], tag: str) -> bool:
    return model.__name__ == tag or any(tag in get_args(field.annotation) for field in model.model_fields.values())
