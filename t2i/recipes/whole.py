"""A shipped recipe with all that its base says, as one text that keeps the comments."""

from __future__ import annotations

import re
from pathlib import Path

from ...training.recipe_base import shipped_file

_Block = dict[str, list[str]]


def whole_text(file: Path) -> str:
    """The text of the shipped recipe at `file`, laid over its base's.

    It reads the shipped recipes' layout: sections in block style with two spaces, and below them each key from its
    place on; a key that both name is the recipe's own, as a whole.
    """
    text = file.read_text(encoding="utf-8")
    own = _blocks(text.splitlines(), "")
    if "base" not in own:
        return text
    base = _blocks(whole_text(shipped_file(own["base"][0].partition(":")[2].strip())).splitlines(), "")
    lines = own[""]
    for section in [name for name in base | own if name not in ("", "base")]:
        if section in base and section in own and section != "method":
            lines += _merged(base[section], own[section])
        else:
            lines += own.get(section) or base[section]
    return "\n".join(lines) + "\n"


def _merged(base: list[str], own: list[str]) -> list[str]:
    keys = _blocks(base, "  ") | _blocks(own, "  ")
    return [line for lines in keys.values() for line in lines]


def _blocks(lines: list[str], indent: str) -> _Block:
    """The lines from each key at `indent` on, by that key; those before the first one by ''."""
    blocks: _Block = {"": []}
    key = ""
    for line in lines:
        if named := re.match(rf"{indent}(\w+):", line):
            key = named[1]
            blocks[key] = []
        blocks[key].append(line)
    return blocks
