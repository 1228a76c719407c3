"""docs/methods.json: everything that the page about the methods says comes from there."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from palate.training.disk import write_text

DOCS = Path(__file__).parents[1] / "docs"
RECORD, PAGE = DOCS / "methods.json", DOCS / "methods.md"


def read_record() -> dict[str, Any]:
    """What is recorded; an empty dict where nothing is yet."""
    return json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}


def keep(section: str, values: dict[str, Any]) -> None:
    """Put `values` into a section of the record by their keys; several commands may do so at once."""
    lock = os.open(DOCS, os.O_RDONLY)  # the folder: the file itself is replaced
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        record = read_record()
        record.setdefault(section, {}).update(values)
        write_text(RECORD, _laid_out(record) + "\n")
    finally:
        os.close(lock)


def _laid_out(value: Any, depth: int = 0) -> str:
    """JSON with a line for each field of a run, whatever is in it."""
    if depth == 3 or not isinstance(value, dict):
        return json.dumps(value, sort_keys=True)
    pad = " " * (depth + 1)
    lines = [f"{pad}{json.dumps(key)}: {_laid_out(value[key], depth + 1)}" for key in sorted(value)]
    return "{\n" + ",\n".join(lines) + f"\n{pad[1:]}}}" if lines else "{}"
