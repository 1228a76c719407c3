"""Pick-a-Pic v1 and v2 (Kirstain et al., arXiv 2305.01569): pairs from a web application's users.

Columns: caption, jpg_0, jpg_1 (encoded bytes), label_0, label_1 (1 and 0, or 0.5 each for a tie), has_label, model_0,
model_1, user_id. The `_no_images` variants hold no pictures and cannot be read here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError
from .group import Group
from .hub import open_hub
from .parquet import file_rows
from .schema import media_bytes
from .skips import BAD_ROW, MISSING_FILE, NO_LABEL, SkipLog
from .sources import looks_like_hub_id, parquet_files

REQUIRED = ("caption", "jpg_0", "jpg_1", "label_0", "label_1")
_COLUMNS = (*REQUIRED, "has_label", "model_0", "model_1", "user_id")


def read_pickapic(source: str | Path, *, split: str | None = None, log: SkipLog | None = None) -> Iterator[Group]:
    """Yield one pair per row; `source` is a Parquet file, a folder, a pattern, or a hub id (streamed).

    Candidates stay in the published order (jpg_0, jpg_1). Ties are kept as equal labels. A row with has_label false
    carries no vote: it is logged and skipped. Keys are `file:row` (`split:row` on the hub): Pick-a-Pic's ranking_id is
    not promised to be unique. Raises UserError for missing columns.
    """
    log = SkipLog() if log is None else log
    for key, row in _rows(source, split):
        group = _to_group(key, row, log)
        if group is not None:
            yield group


def _rows(source: str | Path, split: str | None) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if looks_like_hub_id(source):
        split = split or "train"
        stream = open_hub(str(source), split, _COLUMNS)
        missing = [name for name in REQUIRED if name not in stream.columns]
        if missing:
            raise UserError(f"{source} is not Pick-a-Pic with pictures: it has no column {', '.join(missing)}")
        for number, row in enumerate(stream.rows):
            yield f"{split}:{number}", row
        return
    for file in parquet_files(source, split):
        for number, row in enumerate(file_rows(file, REQUIRED, _COLUMNS)):
            yield f"{file.stem}:{number}", row


def _to_group(key: str, row: Mapping[str, Any], log: SkipLog) -> Group | None:
    labels = row["label_0"], row["label_1"]
    if row.get("has_label") is False or None in labels:
        log.add(key, NO_LABEL)
        return None
    pictures = media_bytes(row["jpg_0"]), media_bytes(row["jpg_1"])
    if pictures[0] is None or pictures[1] is None:
        log.add(key, MISSING_FILE, "jpg_0 or jpg_1 is empty")
        return None
    user = row.get("user_id")
    try:
        return Group(
            key=key,
            prompt=row["caption"],
            candidates=(pictures[0], pictures[1]),
            labels=labels,
            source="pickapic",
            model=(row["model_0"], row["model_1"]) if "model_0" in row and "model_1" in row else None,
            rater=None if user is None else str(user),
        )
    except ValueError as error:
        log.add(key, BAD_ROW, str(error))
        return None
