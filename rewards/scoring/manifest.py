"""Tables of pictures: which columns hold what, and the rows, from JSON Lines, JSON, CSV and Parquet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...datasets.csv_rows import read_csv_rows
from ...datasets.json_rows import read_json_rows
from ...datasets.open import detect_format
from ...datasets.parquet import file_rows, open_parquet
from ...datasets.table import PROMPT_COLUMNS, is_table_row
from ...errors import UserError

TABLES = frozenset({".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet"})
FAULT = "\0fault"
"""Of a table's row that cannot be used: why; no column is called so."""


def image_column(file: Path, columns: Sequence[str]) -> str | None:
    """The column of a manifest's pictures; None where the table is no manifest.

    That is `image`, or `file_name` in what Hugging Face's ImageFolder calls `metadata`, but not in a table of groups.
    """
    if "image" in columns:
        return "image"
    return "file_name" if "file_name" in columns and not holds_groups(file, columns) else None


def prompt_column(columns: Sequence[str]) -> str | None:
    """The column of the prompts where none is named."""
    return next((name for name in PROMPT_COLUMNS if name in columns), None)


def holds_groups(file: Path, columns: Sequence[str]) -> bool:
    """Whether the table has what groups need."""
    try:
        return detect_format(file) != "table" or is_table_row(list(columns))
    except UserError:
        return False


def columns_of(file: Path) -> list[str]:
    """Of a table's head; a JSON file has none, and a row may have what no row before it has: those of all rows."""
    suffix = file.suffix.lower()
    if suffix == ".parquet":
        with open_parquet(file) as parquet:
            return list(parquet.schema_arrow.names)
    if suffix in (".csv", ".tsv"):
        header: list[str] = []
        next(read_csv_rows(file, header.extend), None)
        return header
    return list(dict.fromkeys(name for _, row in table_rows(file) for name in row))


def table_rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(place, row) of each row of a table."""
    suffix = file.suffix.lower()
    if suffix == ".parquet":
        for number, row in enumerate(file_rows(file)):
            yield f"row {number}", row
    elif suffix in (".csv", ".tsv"):
        for number, cells, fault in read_csv_rows(file):
            row = {name: text or None for name, text in cells.items()}
            yield f"line {number}", row if fault is None else {**row, FAULT: fault}
    else:
        for number, row in read_json_rows(file):
            yield f"line {number}", row
