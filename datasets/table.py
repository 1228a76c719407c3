"""A folder of pictures with a table: JSON Lines, CSV or TSV. Paths are relative to the table.

One row is one group. A list in a CSV cell is JSON (`["a.png", "b.png"]`); numbered columns need no list.

    prompt    `prompt`, `caption` or `text`
    pictures  `images` (list); or `image_0`, `image_1`, ...; or `chosen` and `rejected`; or `image` (unpaired)
    labels    `labels` (list); or `label_0`, `label_1`, ...; or `label`; none beside `chosen` and `rejected`
              `scores`, `score_0`, `score` are read as labels; `ranks`, `rank_0`, `rank` too, 1 being the best
    optional  `key` or `id`; `source`; `rater`; per candidate `captions`, `model`, `seed` (list or numbered; a single
              model or seed stands for all); `aspects` in JSON Lines: {"name": [numbers]}
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError
from .csv_rows import read_csv_rows
from .group import Group
from .json_rows import read_json_rows
from .skips import BAD_ROW, MISSING_FILE, NO_LABEL, SkipLog

SUFFIXES = (".jsonl", ".csv", ".tsv")
PROMPT_COLUMNS = ("prompt", "caption", "text")
"""What the column of prompts may be called, the first that is there counts."""

_LABELS = (("labels", "label", 1), ("scores", "score", 1), ("ranks", "rank", -1))  # list, single, sign
_KNOWN = (
    *PROMPT_COLUMNS,
    "images",
    "image",
    "image_0",
    "image_1",
    "labels",
    "label",
    "label_0",
    "label_1",
    "scores",
    "score",
)
_KNOWN += ("score_0", "score_1", "ranks", "rank", "rank_0", "rank_1", "chosen", "rejected")

Row = Mapping[str, Any]


def find_tables(root: Path) -> list[Path]:
    """The tables directly in a folder."""
    return sorted(path for path in root.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))


def read_table(source: str | Path, *, images: str | Path | None = None, log: SkipLog | None = None) -> Iterator[Group]:
    """Yield one group per row of `source`, a table or the folder with exactly one.

    Paths are relative to `images` (default: the table's folder). A row without labels, with a missing picture or with
    lists of different lengths is logged and skipped, under its `key` or `file:line`. Raises UserError: no or several
    tables, missing columns (with the nearest name), broken JSON or text.
    """
    table = _the_table(Path(source))
    root = Path(images) if images is not None else table.parent
    log = SkipLog() if log is None else log
    columns_checked = False
    for line, row, fault in _rows(table):
        if not columns_checked:
            _check_columns(table, list(row))
            columns_checked = True
        key = str(row.get("key") or row.get("id") or f"{table.name}:{line}")
        if fault is not None:
            log.add(key, BAD_ROW, fault)
            continue
        try:
            group = _to_group(key, row, root)
        except OSError as error:
            log.add(key, MISSING_FILE, str(error.filename or error))
        except (ValueError, TypeError, KeyError) as error:
            log.add(key, BAD_ROW, str(error))
        else:
            if group is None:
                log.add(key, NO_LABEL)
            else:
                yield group


def is_table_row(row: Row | list[str]) -> bool:
    """Whether a row, or a list of column names, has all that is needed."""
    return not _missing(list(row))


def _the_table(source: Path) -> Path:
    if source.is_file():
        return source
    tables = find_tables(source) if source.is_dir() else []
    if len(tables) != 1:
        found = ", ".join(table.name for table in tables) or "none"
        raise UserError(f"expected one table ({', '.join(SUFFIXES)}) in {source}, found {found}: give the table's path")
    return tables[0]


def _rows(table: Path) -> Iterator[tuple[int, Row, str | None]]:
    """(line, row, fault) of each row."""
    if table.suffix.lower() not in (".csv", ".tsv"):
        for line, row in read_json_rows(table):
            yield line, row, None
        return
    for line, cells, fault in read_csv_rows(table, lambda columns: _check_columns(table, list(columns))):
        yield line, {name: _cell(text) for name, text in cells.items()}, fault


def _cell(text: str | None) -> Any:
    """A CSV cell; one that holds a JSON list is that list. Numbers stay text until a number is asked for."""
    if text is None or not text.strip():
        return None
    if text.lstrip().startswith("["):
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            return text  # a prompt may begin with a bracket
    return text


def _numbered(row: Row | list[str], name: str) -> list[str]:
    """The columns name_0, name_1, ... (or name_1, name_2, ...) in order."""
    found = [column for column in row if re.fullmatch(rf"{name}_\d+", column)]
    return sorted(found, key=lambda column: int(column.rsplit("_", 1)[1]))


def _missing(columns: list[str]) -> list[str]:
    missing = [] if any(name in columns for name in PROMPT_COLUMNS) else ["prompt"]
    if {"chosen", "rejected"} <= set(columns):
        return missing
    if not ({"images", "image"} & set(columns) or _numbered(columns, "image")):
        missing.append("images")
    if not any(many in columns or one in columns or _numbered(columns, one) for many, one, _ in _LABELS):
        missing.append("labels")
    return missing


def _check_columns(table: Path, columns: list[str]) -> None:
    missing = _missing(columns)
    if not missing:
        return
    hints = []
    for column in columns:
        near = difflib.get_close_matches(column.strip().lower(), _KNOWN, n=1, cutoff=0.7)
        if near and near[0] != column:
            hints.append(f"{column!r} may be meant as {near[0]!r}")
    hint = "; " + ", ".join(hints) if hints else ""
    raise UserError(
        f"{table} has no column for {' and '.join(missing)}: it has {', '.join(map(repr, columns)) or 'none'}{hint}. "
        "Needed: prompt, and images + labels, or image_0, image_1 + label_0, label_1, or chosen + rejected"
    )


def _to_group(key: str, row: Row, root: Path) -> Group | None:
    """The group of a row, or None where it has no label. Raises OSError, ValueError."""
    if row.get("chosen") is not None and row.get("rejected") is not None:
        paths, labels = [row["chosen"], row["rejected"]], [1.0, 0.0]
    else:
        paths = _list(row, "images", "image")
        labels = _row_labels(row)
    if labels is None:
        return None
    if not paths:
        raise ValueError("no pictures")
    aspects, captions = row.get("aspects"), _spread(row, "captions", "caption")
    seeds = _per_candidate(row, "seed", len(paths))
    return Group(
        key=key,
        prompt=_prompt(row),
        candidates=tuple((root / path).read_bytes() for path in paths),
        labels=tuple(labels),
        captions=None if captions is None else tuple(captions),
        aspects=aspects if isinstance(aspects, Mapping) else None,
        source=None if row.get("source") is None else str(row["source"]),
        model=_texts(_per_candidate(row, "model", len(paths))),
        seed=None if seeds is None else tuple(None if seed is None else int(seed) for seed in seeds),
        rater=None if row.get("rater") is None else str(row["rater"]),
    )


def _prompt(row: Row) -> str:
    prompt = next((row[name] for name in PROMPT_COLUMNS if row.get(name) is not None), None)
    if not isinstance(prompt, str):
        raise ValueError("no prompt" if prompt is None else f"the prompt is a {type(prompt).__name__}")
    return prompt


def _row_labels(row: Row) -> list[float] | None:
    for many, one, sign in _LABELS:
        values = _list(row, many, one)
        if values is not None:
            # A missing label makes the whole group unusable: its place among the others is unknown.
            return None if any(value is None for value in values) else [sign * float(value) for value in values]
    return None


def _list(row: Row, many: str, one: str) -> list[Any] | None:
    """The values of `many` (a list), of one_0, one_1, ... or of a single `one`; None where none is given."""
    values = _spread(row, many, one)
    return [row[one]] if values is None and row.get(one) is not None else values


def _spread(row: Row, many: str, one: str) -> list[Any] | None:
    if isinstance(row.get(many), list):
        return row[many]
    numbered = [row[column] for column in _numbered(row, one)]
    return numbered if any(value is not None for value in numbered) else None


def _per_candidate(row: Row, name: str, k: int) -> list[Any] | None:
    """A value for each candidate; a single one stands for all of them."""
    values = _spread(row, name, name)
    return [row[name]] * k if values is None and row.get(name) is not None else values


def _texts(values: list[Any] | None) -> tuple[str | None, ...] | None:
    return None if values is None else tuple(None if value is None else str(value) for value in values)
