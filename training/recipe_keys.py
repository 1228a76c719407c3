"""Which keys a pydantic schema allows at a place, to tell the user."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel

Place = tuple[str | int, ...]
"""The location of a pydantic error."""


def allowed_keys(schema: type[BaseModel], place: Place) -> list[str]:
    """Keys that the models at `place` take."""
    return sorted({key for model in _models_at(schema, place) for key in model.model_fields})


def member_names(schema: type[BaseModel], place: Place, key: str) -> tuple[list[str], list[str]]:
    """What `key`, which chooses the member of a union at `place`, may be; and what it may be in other kinds of recipes,
    where the recipe's field says so with `json_schema_extra={"elsewhere": [...]}`."""
    here = [name for model in _models_at(schema, place) for name in get_args(model.model_fields[key].annotation)]
    extra = schema.model_fields[str(place[0])].json_schema_extra if len(place) == 1 else None
    elsewhere: Any = extra.get("elsewhere", []) if isinstance(extra, dict) else []
    return sorted(here), sorted(elsewhere)


def as_written(values: Any, place: Place) -> tuple[Place, str]:
    """The place as it stands in `values`, without what pydantic puts in for members of unions, and the member that it
    ends in; "" where it ends in none."""
    written: list[str | int] = []
    inner, member = values, ""
    for part in place:
        inner = dict[Any, Any](enumerate(inner)) if isinstance(inner, list | tuple) else inner
        if isinstance(inner, dict) and part in inner:
            written.append(part)
            inner, member = inner[part], ""
        else:
            member = str(part)
    return tuple(written), member


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


def _models_at(schema: type[BaseModel], place: Place) -> list[type[BaseModel]]:
    models = [schema]
    for part in place:
        inner = [model for outer in models for model in _models_of_key(outer, part)]
        if inner:
            models = inner
        elif isinstance(part, str):  # the tag or the class name that pydantic puts in for a member of a union
            models = [model for model in models if _tagged(model, part)] or models
    return models


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
