"""A source's pictures joined with the table of their scores, prompt by prompt."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ...datasets.group import Group
from ...datasets.images import IMAGE_SUFFIXES, UnreadableImageError, inspect
from ...datasets.open import open_groups
from ...datasets.parquet import file_rows, open_parquet
from ...datasets.skips import MISSING_FILE, NO_PROMPT, UNREADABLE, SkipLog, Skipped
from ...errors import UserError
from ..scoring.manifest import columns_of, image_column, table_rows
from ..scoring.rows import Row, Rows, open_rows

NO_SCORE = "no score"
CHANGED = "changed since it was scored"
_TEXTS = ("key", "image", "prompt", "sha256")


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """What `palate score` wrote.

    names     the scorers
    values    float64 `[rows, n]`; NaN where there is no score
    digests   sha256 of each row's picture when it was scored
    errors    why a row has a NaN
    places    a row's number by its key, image and prompt
    expected  rows by prompt
    """

    names: tuple[str, ...]
    values: np.ndarray
    digests: Sequence[str]
    errors: Sequence[str | None]
    places: Mapping[tuple[str | None, ...], int]
    expected: Mapping[str | None, int]

    def place(self, row: Row) -> int | None:
        """The number of a source's row, None where the table does not have it."""
        return self.places.get(tuple(map(_as_written, (row.key, row.image, row.prompt))))


def read_score_table(path: str | Path, scorers: Sequence[str] | None = None) -> ScoreTable:
    """Read a `scores.parquet`, or that of a folder; only these scorers' columns where they are named.

    Raises:
        UserError: there is no such file, it is damaged or no table of scores, or it lacks a scorer.
    """
    path = Path(path).expanduser()
    file = path / "scores.parquet" if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{file} does not exist; give a scores.parquet, which `palate score` writes, or its folder")
    with open_parquet(file) as parquet:
        there = [column.name for column in parquet.schema_arrow if pa.types.is_floating(column.type)]
    names = tuple(there if scorers is None else scorers)
    if missing := [name for name in names if name not in there]:
        raise UserError(f"{file} has no scores of {', '.join(missing)}; it has those of {', '.join(there) or 'none'}")
    places, expected = {}, Counter()
    values, digests, errors = [], [], []
    for place, row in enumerate(file_rows(file, (*_TEXTS, *names), (*_TEXTS, *names, "error"), batch_rows=4096)):
        places[row["key"], row["image"], row["prompt"]] = place
        expected[row["prompt"]] += 1
        values.append([math.nan if row[name] is None else row[name] for name in names])
        digests.append(row["sha256"])
        errors.append(row.get("error"))
    table = np.array(values, dtype=np.float64).reshape(len(values), len(names))
    return ScoreTable(names, table, digests, errors, places, expected)


@dataclass(frozen=True)
class Origin:
    """What a source tells of a picture besides its prompt."""

    model: str | None = None
    seed: int | None = None
    caption: str | None = None


@dataclass(frozen=True, eq=False)
class Candidate:
    """A picture with a score from every scorer: its row, its origin and its place in the table."""

    row: Row
    origin: Origin
    place: int

    @property
    def name(self) -> str:
        """What the source calls the picture."""
        return self.row.image or self.row.key

    def read(self, digest: str) -> bytes | Skipped:
        """Its bytes, or why they can stand in no group: missing, undecodable, or no longer those of the digest."""
        try:
            data = self.row.data if isinstance(self.row.data, bytes) else Path(self.row.data or "").read_bytes()
            if hashlib.sha256(data).hexdigest() != digest:
                return Skipped(self.name, CHANGED)
            inspect(data)
        except UnreadableImageError as error:
            return Skipped(self.name, UNREADABLE, str(error))
        except (OSError, ValueError) as error:
            return Skipped(self.name, MISSING_FILE, getattr(error, "strerror", None) or str(error))
        return data


def candidates_by_prompt(
    source: str | Path, rows: Rows, table: ScoreTable, log: SkipLog
) -> Iterator[tuple[str, list[Candidate]]]:
    """Yield each prompt with its scored candidates, as soon as the last one that the table knows of has come.

    They may stand anywhere in the source. What has no prompt or lacks a score is put in `log`.
    """
    pending: dict[str, list[Candidate]] = {}
    seen: Counter[str] = Counter()
    for row, origin in zip(rows.read(), _origins(source, rows), strict=False):
        name, place = row.image or row.key, table.place(row)
        if row.prompt is None:
            log.add(name, NO_PROMPT)
            continue
        candidates = pending.setdefault(row.prompt, [])
        if place is None:
            log.add(name, NO_SCORE, "the table of scores has no such picture and prompt")
            continue
        if np.isfinite(table.values[place]).all():
            candidates.append(Candidate(row, origin, place))
        else:
            log.add(name, NO_SCORE, table.errors[place] or "")
        seen[row.prompt] += 1
        if seen[row.prompt] == table.expected[_as_written(row.prompt)]:
            yield row.prompt, pending.pop(row.prompt)
    yield from pending.items()


def _origins(source: str | Path, rows: Rows) -> Iterator[Origin]:
    """One for each of the rows, in their order; without end where the source tells nothing."""
    file = Path(rows.source)
    if file.is_file() and file.suffix.lower() not in IMAGE_SUFFIXES and image_column(file, columns_of(file)):
        return (_of_manifest(row) for _, row in table_rows(file))
    if open_rows(source).has_prompts:  # without a file of prompts beside it: groups
        return (origin for group in open_groups(rows.source) for origin in _of_group(group))
    return repeat(Origin())


def _of_manifest(row: Mapping[str, Any]) -> Origin:
    named = [str(row[name]) for name in ("model", "lora") if row.get(name) is not None]
    try:
        seed = int(row["seed"])
    except (KeyError, TypeError, ValueError):  # none, or none that is a number
        seed = None
    return Origin(" + ".join(named) or None, seed)


def _of_group(group: Group) -> Iterator[Origin]:
    nothing = (None,) * group.size
    for told in zip(group.model or nothing, group.seed or nothing, group.captions or nothing, strict=True):
        yield Origin(*told)


def _as_written(text: str | None) -> str | None:
    """As the table has it: in a file there is no lone surrogate."""
    return None if text is None else text.encode("utf-8", "replace").decode()
