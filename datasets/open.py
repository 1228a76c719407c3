"""Open preference data of any known form as one stream of groups."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import UserError
from . import pickapic
from .folders import find_folders, read_folders
from .group import Group
from .hpd import is_hpd_row, read_hpd
from .hub import open_hub
from .imagereward_db import is_imagereward_row, metadata_files, read_imagereward_db
from .json_rows import read_json_rows
from .parquet import open_parquet, read_columns, read_groups
from .schema import REQUIRED, from_row
from .skips import BAD_ROW, SkipLog
from .sources import looks_like_hub_id, parquet_files
from .table import SUFFIXES, find_tables, is_table_row, read_table

FORMATS = {
    "parquet": "palate's own Parquet shards",
    "pickapic": "Pick-a-Pic v1 or v2: Parquet files or a hub id",
    "table": "a folder of pictures with a JSONL, CSV or TSV table",
    "folders": "two folders with equal file names, w/ (winners) and l/ (losers)",
    "hpd": "HPD v2 or v3: train.json or test.json beside its pictures",
    "imagereward": "ImageRewardDB: metadata-*.parquet with its zip files, or its JSON",
}


def open_groups(
    source: str | Path, format: str = "auto", *, split: str | None = None, log: SkipLog | None = None
) -> Iterator[Group]:
    """Yield the groups of a file, a folder, a pattern or a hub id, streaming.

    What could not be read as a group is put in `log` with its key and reason, and skipped. Raises UserError at once
    for an unknown format, a source that does not exist, or one whose form cannot be told.
    """
    log = SkipLog() if log is None else log
    if format == "auto":
        format = detect_format(source, split)
    if format not in FORMATS:
        raise UserError(f"unknown format {format!r}: choose one of {', '.join(FORMATS)}")
    if looks_like_hub_id(source):
        if format == "pickapic":
            return pickapic.read_pickapic(source, split=split, log=log)
        if format != "parquet":
            raise UserError(
                f"{source!r} is not on this disk, and from the hub only Pick-a-Pic and palate's sets stream"
            )
        return _read_hub(str(source), split or "train", log)
    if not Path(source).exists() and not glob.glob(str(source), recursive=True):
        raise UserError(f"{str(source)!r} does not exist: give a file, a folder, a pattern or a hub id (owner/name)")
    if format == "parquet":
        return read_groups(source, split=split, log=log)
    if format == "pickapic":
        return pickapic.read_pickapic(source, split=split, log=log)
    if format == "table":
        return read_table(source, log=log)
    if format == "folders":
        return read_folders(source, log=log)
    if format == "hpd":
        return read_hpd(source, split=split, log=log)
    return read_imagereward_db(source, split=split, log=log)


def open_prompts(source: str | Path, split: str | None = None) -> Iterator[str]:
    """Yield the prompt of every group; from Parquet without reading a picture. Raises what `open_groups` raises."""
    format = detect_format(source, split)
    column = {"parquet": "prompt", "pickapic": "caption"}.get(format)
    if column is None or looks_like_hub_id(source):
        return (group.prompt for group in open_groups(source, format, split=split))
    return (row[column] or "" for row in read_columns(source, column, split=split))


def detect_format(source: str | Path, split: str | None = None) -> str:
    """The format's name, told by what is there. Raises UserError, listing the formats, when it cannot be told."""
    path = Path(source)
    found = None
    if looks_like_hub_id(source):
        found = _by_columns(list(open_hub(str(source), split or "train").columns))
    elif path.is_dir():
        found = _by_folder(path, split)
    elif path.suffix == ".parquet" or glob.has_magic(str(source)):
        found = _by_columns(open_parquet(parquet_files(source, split)[0]).schema_arrow.names)
    elif path.is_file():
        found = _by_text(path)
    else:
        raise UserError(f"{str(source)!r} does not exist: give a file, a folder, a pattern or a hub id (owner/name)")
    if found is None:
        known = "; ".join(f"{name}: {what}" for name, what in FORMATS.items())
        raise UserError(f"cannot tell what {str(source)!r} holds: name its format. Known are {known}")
    return found


def _by_folder(root: Path, split: str | None) -> str | None:
    if find_folders(root):
        return "folders"
    if metadata_files(root):
        return "imagereward"
    if any(root.rglob("*.parquet")):
        return _by_columns(open_parquet(parquet_files(root, split)[0]).schema_arrow.names)
    if find_tables(root):
        return "table"
    lists = sorted(root.glob("*.json"))
    return next((found for found in map(_by_text, lists) if found), None)


def _by_columns(columns: list[str]) -> str | None:
    if all(name in columns for name in REQUIRED):
        return "parquet"
    if all(name in columns for name in pickapic.REQUIRED):
        return "pickapic"
    return "imagereward" if is_imagereward_row(columns) else None


def _by_text(path: Path) -> str | None:
    """A table's or a JSON file's format by its first row; an empty table is still a table."""
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        return "table"
    if suffix not in (".json", *SUFFIXES):
        return None
    row: dict[str, Any] = next((row for _, row in islice(read_json_rows(path), 1)), {})
    if is_imagereward_row(row):  # before HPD, whose test rows have `rank` and `image_path` too
        return "imagereward"
    if is_hpd_row(row):
        return "hpd"
    return "table" if is_table_row(row) or suffix in SUFFIXES else None


def _read_hub(name: str, split: str, log: SkipLog) -> Iterator[Group]:
    for number, row in enumerate(open_hub(name, split).rows):
        try:
            yield from_row(row)
        except (ValueError, KeyError) as error:
            log.add(str(row.get("key") or f"{split}:{number}"), BAD_ROW, str(error))
