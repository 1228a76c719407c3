"""A finished log as tables: Parquet and JSON Lines, rows in input order, and where the numbers come from."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .log import ScoreLog

METADATA_KEY = b"palate.scores"
"""Of the Parquet schema: the provenance as JSON. `scores.meta.json` holds the same."""

_ROW_GROUP = 4096


def write_tables(
    log: ScoreLog, blocks: int, scorers: Sequence[str], provenance: Mapping[str, Any], folder: Path
) -> tuple[Path, Path, Path]:
    """Write `scores.parquet`, `scores.jsonl` and `scores.meta.json`; each appears whole or not at all.

    Parts are called after the log, whose lock the caller holds: those that a killed process left are written anew.
    A score that failed is NaN in Parquet and null in JSON, which has no NaN; `error` says why.
    """
    meta = json.dumps(provenance, indent=2, sort_keys=True, default=str)
    texts = [pa.field(name, pa.string()) for name in ("key", "image", "prompt", "sha256")]
    numbers = [pa.field(name, pa.float32()) for name in scorers]
    schema = pa.schema([*texts, *numbers, pa.field("error", pa.string())], {METADATA_KEY: meta.encode()})
    parquet, jsonl, side = (folder / f"scores.{suffix}" for suffix in ("parquet", "jsonl", "meta.json"))
    parts = [folder / f".{file.name}.{log.file.stem}.part" for file in (parquet, jsonl, side)]
    try:
        with pq.ParquetWriter(parts[0], schema) as writer, open(parts[1], "w", encoding="utf-8") as lines:
            group: list[dict[str, Any]] = []
            for row in _rows(log, blocks, scorers):
                lines.write(json.dumps(_plain(row, scorers), ensure_ascii=True, allow_nan=False) + "\n")
                group.append(row)
                if len(group) == _ROW_GROUP:
                    writer.write_table(_table(group, schema))
                    group = []
            if group:
                writer.write_table(_table(group, schema))
        parts[2].write_text(meta + "\n", encoding="utf-8")
        for part, file in zip(parts, (parquet, jsonl, side), strict=True):
            part.replace(file)
    finally:
        for part in parts:
            part.unlink(missing_ok=True)
    return parquet, jsonl, side


def _table(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table of texts and numbers.

    From buffers, because `pa.array` imports pandas where that is installed, which takes as long as thirty pictures.
    """
    columns = []
    for column in schema:
        values = [row[column.name] for row in rows]
        make = _texts if column.type == pa.string() else _numbers
        columns.append(make(values))
    return pa.Table.from_arrays(columns, schema=schema)


def _numbers(values: Sequence[float]) -> pa.Array:
    return pa.Array.from_buffers(pa.float32(), len(values), [None, pa.py_buffer(np.asarray(values, dtype=np.float32))])


def _texts(values: Sequence[str | None]) -> pa.Array:
    encoded = [(value or "").encode() for value in values]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    present = np.packbits(np.array([value is not None for value in values], dtype=bool), bitorder="little")
    buffers = [pa.py_buffer(present), pa.py_buffer(ends), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.string(), len(values), buffers)


def _rows(log: ScoreLog, blocks: int, scorers: Sequence[str]) -> Iterator[dict[str, Any]]:
    for number in range(blocks):
        record = log.block(number)
        assert record is not None, f"block {number} is not in the log"
        for place, row in enumerate(record.rows):
            values = {name: record.columns[name].values[place] for name in scorers}
            reasons = {name: record.columns[name].errors.get(place) for name in scorers}
            numbers = {name: math.nan if value is None else value for name, value in values.items()}
            texts = {name: _writable(text) for name, text in row.items()}
            yield {**texts, **numbers, "error": _told(reasons)}


def _writable(text: str | None) -> str | None:
    """A lone surrogate is a str that no file in UTF-8 can hold."""
    return None if text is None else text.encode("utf-8", "replace").decode()


def _told(reasons: Mapping[str, str | None]) -> str | None:
    """One phrase where all scorers fail alike, else one for each that failed."""
    told = {name: reason for name, reason in reasons.items() if reason is not None}
    if len(told) == len(reasons) and len(set(told.values())) == 1:
        return next(iter(told.values()))
    return "; ".join(f"{name}: {reason}" for name, reason in told.items()) or None


def _plain(row: Mapping[str, Any], scorers: Sequence[str]) -> dict[str, Any]:
    """NaN as None, and numbers with the digits that a float32 has."""
    shown = {name: None if math.isnan(row[name]) else float(str(np.float32(row[name]))) for name in scorers}
    return {**row, **shown}
