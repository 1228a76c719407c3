"""What is wrong with a recipe, in the words of its writer: pydantic speaks of Python and of its own unions."""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from .recipe_keys import Place, allowed_keys, as_written, find_key, member_names

_INPUT = "Input should be "
_WORDS = {
    **dict.fromkeys(("bool_parsing", "bool_type"), f"{_INPUT}true or false"),
    **dict.fromkeys(("model_type", "model_attributes_type", "dict_type"), f"{_INPUT}keys and their values"),
    "tuple_type": f"{_INPUT}a list",
}
"""In place of pydantic's, by its name of the fault."""


def first_fault(error: ValidationError, values: dict[str, Any], schema: type[BaseModel]) -> str:
    """The first of the faults that pydantic found in `values`, and how many there are beside it, in one line."""
    faults = sorted(error.errors(include_url=False), key=_rank)
    fault = faults[0]
    kind, place = fault["type"], _place(values, fault)
    if kind.startswith("union_tag"):  # what else is wrong depends on what was meant
        return _no_member(values, fault, schema)
    others = {_place(values, other) for other in faults} - {place}
    more = f" (and {len(others)} more)" if others else ""
    if kind == "extra_forbidden":
        return f"{_unknown(values, fault, schema)}{more}"
    if kind == "missing":
        return f"`{_dotted(place)}` is missing; give it a value{more}"
    if kind == "value_error":
        return f"{_lowered(fault['msg'].removeprefix('Value error, '))}{more}"
    alike = [_WORDS.get(other["type"], other["msg"]) for other in faults if _place(values, other) == place]
    first, *rest = dict.fromkeys(alike)  # a value that may be of several kinds has a fault for each
    wanted = " or ".join([_lowered(first), *(message.removeprefix(_INPUT) for message in rest)])
    return f"`{_dotted(place)}` is {_cut(repr(fault['input']))}, but {wanted}{more}"


def boolean_for_number(values: Any, read: Any, place: Place = ()) -> str:
    """The key of `values` that is true or false where a number was `read`, or "": pydantic takes them for 1 and 0."""
    if isinstance(values, bool):
        return _dotted(place) if isinstance(read, int | float) and not isinstance(read, bool) else ""
    pairs = list[tuple[str | int, Any, Any]]()
    if isinstance(values, dict) and isinstance(read, dict):
        pairs = [(key, value, read.get(key)) for key, value in values.items()]
    elif isinstance(values, list | tuple) and isinstance(read, list | tuple):
        pairs = [(number, *pair) for number, pair in enumerate(zip(values, read, strict=False))]
    return next(filter(None, (boolean_for_number(one, other, (*place, key)) for key, one, other in pairs)), "")


def _rank(fault: ErrorDetails) -> int:
    # Which keys there are depends on the member of a union; a misspelt key is often also a missing one.
    causes = ("union_tag_invalid", "union_tag_not_found", "extra_forbidden")
    return causes.index(fault["type"]) if fault["type"] in causes else len(causes)


def _place(values: dict[str, Any], fault: ErrorDetails) -> Place:
    place = as_written(values, fault["loc"])[0]
    return (*place, fault["loc"][-1]) if fault["type"] == "missing" else place


def _no_member(values: dict[str, Any], fault: ErrorDetails, schema: type[BaseModel]) -> str:
    place, key = fault["loc"], str(fault.get("ctx", {})["discriminator"]).strip("'")
    noun = str(place[-1]) if key == "name" else key
    here, elsewhere = member_names(schema, place, key)
    listed = f"the {noun}s are {', '.join(sorted([*here, *elsewhere]))}"
    written, given = f"`{_dotted((*_place(values, fault), key))}`", fault["input"].get(key)
    if given is None:
        return f"{written} is missing; {listed}"
    if given in elsewhere:
        return f"{written}: {given} is a {noun} of another kind of recipe; this one takes {', '.join(here)}"
    near = _near_members(str(given), [*here, *elsewhere])
    guess = f"did you mean {' or '.join(near)}? " if near else ""
    return f"{written}: there is no {noun} {_cut(str(given))}; {guess}{listed}"


def _near_members(given: str, names: list[str]) -> list[str]:
    plain = given.lower().replace("-", "_")
    parts = [name for name in names if plain in name.split("_")]
    # Most methods' names are a letter apart from another one's: so short a slip says nothing.
    return [plain] if plain in names else parts or difflib.get_close_matches(plain, names, n=1, cutoff=0.87)


def _unknown(values: dict[str, Any], fault: ErrorDetails, schema: type[BaseModel]) -> str:
    *keys, name = fault["loc"]
    allowed = allowed_keys(schema, tuple(keys)) + ([] if keys else ["base"])
    place, member = as_written(values, tuple(keys))
    typed = _dotted((*place, name))
    near = next(iter(difflib.get_close_matches(str(name), allowed, n=1)), "") or find_key(schema, str(name))
    guess = f"did you mean `{near}`? " if near not in ("", typed) else ""  # as typed, it is another member's
    owner = f"`{_dotted(place)}`" if place else "a recipe"
    told = f"{member} has no such setting, it" if member else owner
    return f"unknown key `{typed}`; {guess}{told} takes {', '.join(allowed)}"


def _dotted(place: Place) -> str:
    return ".".join(map(str, place))


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:]


def _cut(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
