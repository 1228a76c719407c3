"""Write groups to Parquet shards and read them back, both as streams."""

from __future__ import annotations

import errno
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import PalateError, UserError
from .group import Group
from .schema import REQUIRED, arrow_schema, from_row, to_table
from .skips import BAD_ROW, SkipLog
from .sources import parquet_files

_SHARD = re.compile(r"groups-(\d{5,})\.parquet")
_UNFINISHED = ".unfinished"  # hidden, so that `datasets` does not take it for data


@dataclass(frozen=True)
class Written:
    """What one call of `write_groups` put on disk."""

    groups: int
    shards: tuple[Path, ...]
    bytes: int


def write_groups(
    groups: Iterable[Group],
    folder: str | Path,
    *,
    mode: Literal["new", "resume", "overwrite"] = "new",
    media: str = "image",
    shard_bytes: int = 256 << 20,
    row_group_bytes: int = 4 << 20,
    row_group_rows: int = 64,
) -> Written:
    """Stream groups into `folder` as `groups-00000.parquet`, `groups-00001.parquet`, ...

    At most one row group (`row_group_bytes` or `row_group_rows`, whichever comes first) is held in memory; row groups
    are small because random access reads a whole one. A shard appears under its name only when it is complete, so a
    build killed at any moment leaves whole shards, and `is_unfinished(folder)` tells. If `groups` raises, what came
    before is kept as a shard and the error goes on to the caller.

    mode  "new" refuses a folder that already holds anything; "overwrite" removes the shards that are there, and does
          so before it writes, so that a build that is stopped can be resumed; it refuses a folder with other Parquet
          files and leaves all else alone; "resume" keeps the shards and skips as many groups of each key as they hold
          (a builder to which a group is expensive asks `written_keys` before it makes one).
    Raises UserError for a folder in use, PalateError for a full disk.
    """
    folder = Path(folder)
    first_index, done = _claim(folder, mode)
    schema = arrow_schema(media)
    failure: list[BaseException] = []
    batches = _Peekable(_batches(_fresh(groups, done), row_group_bytes, row_group_rows, failure))
    shards: list[Path] = []
    count = 0
    while batches.has_next():
        shard = folder / f"groups-{first_index + len(shards):05d}.parquet"
        count += _write_shard(shard, batches, schema, shard_bytes)
        shards.append(shard)
    if failure:
        raise failure[0]
    (folder / _UNFINISHED).unlink(missing_ok=True)
    return Written(count, tuple(shards), sum(shard.stat().st_size for shard in shards))


def is_unfinished(folder: str | Path) -> bool:
    """Whether a build into `folder` was stopped before its end."""
    return (Path(folder) / _UNFINISHED).exists()


def own_shards(folder: str | Path) -> list[Path]:
    """The shards of `write_groups` in a folder, which overwriting removes.

    Raises UserError: there is another Parquet file, which would be read as part of the set and is not palate's to
    remove.
    """
    found = sorted(Path(folder).glob("*.parquet"))
    if foreign := next((file for file in found if not _SHARD.fullmatch(file.name)), None):
        raise UserError(
            f"{folder} holds {foreign.name}, which is no shard of palate's: move it, or name another folder"
        )
    return found


def written_keys(folder: str | Path) -> Counter[str]:
    """The keys in a folder's whole shards, and how many groups have each; empty when there are none."""
    if not any(Path(folder).glob("*.parquet")):
        return Counter()
    return Counter(row["key"] for row in read_columns(folder, "key"))


def read_groups(source: str | Path, *, split: str | None = None, log: SkipLog | None = None) -> Iterator[Group]:
    """Yield the groups of a file, folder or pattern, 16 rows in memory at a time.

    A row that is no valid group (a candidate without bytes, a label that is not finite) is logged and skipped.
    Raises UserError: nothing there, not Parquet, cut off, or other columns than palate's.
    """
    log = SkipLog() if log is None else log
    for file in parquet_files(source, split):
        for number, row in enumerate(file_rows(file, REQUIRED)):
            try:
                yield from_row(row)
            except ValueError as error:
                log.add(row.get("key") or f"{file.stem}:{number}", BAD_ROW, str(error))


def read_columns(source: str | Path, *columns: str, split: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield only these columns of every row; without `candidates` no picture is read from the disk."""
    for file in parquet_files(source, split):
        yield from file_rows(file, columns, columns)


def file_rows(
    file: Path, required: Iterable[str] = (), columns: Iterable[str] | None = None, batch_rows: int = 16
) -> Iterator[dict[str, Any]]:
    """Yield one Parquet file's rows as dicts, a few in memory at a time; only `columns` where they exist."""
    with open_parquet(file) as parquet:
        names = parquet.schema_arrow.names
        missing = [name for name in required if name not in names]
        if missing:
            raise UserError(f"{file} has no column {', '.join(missing)}; it has {', '.join(names)}")
        wanted = None if columns is None else [name for name in columns if name in names]
        try:
            for batch in parquet.iter_batches(batch_size=batch_rows, columns=wanted, use_threads=False):
                yield from batch.to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{file} is damaged ({_first_line(error)}): copy or build it again") from error


def open_parquet(file: Path) -> pq.ParquetFile:
    """Open a file; memory-mapped, so that a column chunk larger than a batch is not copied. Raises UserError."""
    try:
        return pq.ParquetFile(file, memory_map=True, pre_buffer=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{file} is not a whole Parquet file ({_first_line(error)}): copy or build it again") from error


def _claim(folder: Path, mode: str) -> tuple[int, Counter[str]]:
    """Make `folder` ready; returns the number of the next shard and the keys that are already there."""
    if mode not in ("new", "resume", "overwrite"):
        raise ValueError(f"mode must be new, resume or overwrite, not {mode!r}")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: name a folder for the shards")
    if mode == "new" and folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty: name another folder, or ask to overwrite or to resume it")
    folder.mkdir(parents=True, exist_ok=True)
    old = own_shards(folder) if mode == "overwrite" else []
    (folder / _UNFINISHED).touch()
    for leftover in folder.glob(".*.parquet.tmp"):
        leftover.unlink()
    for shard in old:
        shard.unlink()
    names = map(_SHARD.fullmatch, os.listdir(folder))
    return max((int(name[1]) for name in names if name), default=-1) + 1, written_keys(folder)


def _fresh(groups: Iterable[Group], done: Counter[str]) -> Iterator[Group]:
    """Those that are not written yet. A key may come twice (a table's `id`), so that a set of keys would not do."""
    for group in groups:
        if done[group.key] > 0:
            done[group.key] -= 1
        else:
            yield group


def _batches(
    groups: Iterable[Group], max_bytes: int, max_rows: int, failure: list[BaseException]
) -> Iterator[list[Group]]:
    """Row groups. An error of the source ends the stream and is put in `failure`: what came before is still good."""
    batch: list[Group] = []
    size = 0
    try:
        for group in groups:
            batch.append(group)
            size += sum(map(len, group.candidates))
            if size >= max_bytes or len(batch) >= max_rows:
                yield batch
                batch, size = [], 0
    except (Exception, KeyboardInterrupt) as error:
        failure.append(error)
    if batch:
        yield batch


def _write_shard(shard: Path, batches: Iterator[list[Group]], schema: pa.Schema, shard_bytes: int) -> int:
    """Write one shard under a hidden name, then rename it; returns its number of groups."""
    hidden = shard.with_name(f".{shard.name}.tmp")
    count = 0
    try:
        with hidden.open("wb") as file:
            # Pictures neither compress nor repeat, and their minimum and maximum would bloat the footer.
            plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
            with pq.ParquetWriter(file, schema, **plain) as writer:
                for batch in batches:
                    writer.write_table(to_table(batch, schema), row_group_size=len(batch))
                    count += len(batch)
                    if file.tell() >= shard_bytes:
                        break
            file.flush()
            os.fsync(file.fileno())
        hidden.replace(shard)
    except BaseException as error:
        hidden.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise PalateError(
                f"the disk is full at {shard.parent}: the shards written so far are whole; free some space and resume"
            ) from error
        raise
    return count


class _Peekable:
    """An iterator that can tell whether another item follows."""

    def __init__(self, items: Iterator[list[Group]]) -> None:
        self._items = items
        self._next = next(items, None)

    def has_next(self) -> bool:
        return self._next is not None

    def __iter__(self) -> _Peekable:
        return self

    def __next__(self) -> list[Group]:
        if self._next is None:
            raise StopIteration
        item, self._next = self._next, next(self._items, None)
        return item


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
