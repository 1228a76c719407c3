"""The prompts of an online run: from a text file, a column, or preference groups, each prompt once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...datasets.converted import Say
from ...datasets.csv_rows import read_csv_rows
from ...datasets.digest import digest
from ...datasets.holdout import is_held_out
from ...datasets.hub import open_hub
from ...datasets.json_rows import read_json_rows
from ...datasets.open import open_prompts
from ...datasets.parquet import open_parquet, read_columns
from ...datasets.sources import looks_like_hub_id, parquet_files
from ...datasets.table import PROMPT_COLUMNS
from ...errors import UserError
from ..gallery import read_prompts
from .recipe import PromptsConfig


@dataclass(frozen=True)
class Prompts:
    """Training and held-out prompts, and a hash of them all."""

    train: list[str]
    held_out: list[str]
    hash: str


def open_training_prompts(data: PromptsConfig, say: Say = print) -> Prompts:
    """Read, count and split. Raises UserError: nothing there, no such column, or a side of the split is empty."""
    prompts, blank, double = dict[str, None](), 0, 0
    for text in _texts(data):
        prompt = text.strip() if isinstance(text, str) else ""
        blank += not prompt
        double += prompt in prompts
        if prompt:
            prompts[prompt] = None
        if len(prompts) == data.limit:
            break
    if not prompts:
        raise UserError(f"data.path: {data.path} holds no prompts" + (f": {blank} rows are empty" if blank else ""))
    if blank or double:
        say(f"{len(prompts)} prompts are used; left out are {blank} empty ones and {double} that were there before")
    held = [prompt for prompt in prompts if data.holdout and is_held_out(prompt, data.holdout)]
    train = [prompt for prompt in prompts if not (data.holdout and is_held_out(prompt, data.holdout))]
    if not train or (data.holdout and not held):
        side = "every" if not train else "no"
        raise UserError(
            f"data.holdout={data.holdout} would hold {side} prompt out of {len(prompts)}; change it or set 0"
        )
    return Prompts(train, held, digest(str(data.holdout), *prompts))


def _texts(data: PromptsConfig) -> Iterator[Any]:
    path, suffix = Path(data.path), Path(data.path).suffix.lower()
    if looks_like_hub_id(data.path):
        stream = open_hub(data.path, data.split or "train")
        name = _column(data, stream.columns)
        # Opened anew for the one column: the pictures beside it are not fetched.
        return _values(open_hub(data.path, data.split or "train", (name,)).rows, name)
    if (path.is_file() and suffix == ".parquet") or (path.is_dir() and any(path.rglob("*.parquet"))):
        names = open_parquet(parquet_files(data.path, data.split)[0]).schema_arrow.names
        name = _column(data, names)
        return _values(read_columns(data.path, name, split=data.split), name)
    if path.is_file() and suffix in (".csv", ".tsv"):
        return _first_column(data, (row for _, row, fault in read_csv_rows(path) if fault is None))
    if path.is_file() and suffix in (".jsonl", ".ndjson", ".json"):
        return _first_column(data, (row for _, row in read_json_rows(path)))
    if path.is_dir():
        return open_prompts(path, data.split)
    if not path.exists():
        raise UserError(f"data.path: {path} does not exist; give a file of prompts, one a line, or preference groups")
    return iter(read_prompts(path))


def _first_column(data: PromptsConfig, rows: Iterator[Mapping[str, Any]]) -> Iterator[Any]:
    """The column that the first row has; a later row without it is an empty prompt."""
    name = None
    for row in rows:
        name = name or _column(data, row)
        yield row.get(name)


def _values(rows: Iterable[Mapping[str, Any]], name: str) -> Iterator[Any]:
    return (row.get(name) for row in rows)


def _column(data: PromptsConfig, names: Iterable[str]) -> str:
    there = list(names)
    found = next((name for name in ([data.column] if data.column else PROMPT_COLUMNS) if name in there), None)
    if found is None:
        wanted = f"no column {data.column}" if data.column else f"none of the columns {', '.join(PROMPT_COLUMNS)}"
        raise UserError(f"data.path: {data.path} has {wanted}; it has {', '.join(there) or 'none'}: set data.column")
    return found
