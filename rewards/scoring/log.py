"""The record of a scoring run: one line for each block of rows, on disk before the next block is scored.

A line is written whole or it does not count: `kill -9` costs the block in hand and nothing else. Several processes
(shards) write one file each into one folder, and all read all.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, BinaryIO

from ...errors import UserError

_LOGS = "log-*-of-*.jsonl"
_CHANGED = "the picture changed after it was scored; score again"


@dataclass(frozen=True)
class Column:
    """One scorer's answers for a block: a number or None for each row, and by row why there is none."""

    settings: str
    values: tuple[float | None, ...]
    errors: Mapping[int, str]


@dataclass(frozen=True)
class Record:
    """What is known of one block of rows.

    plan     digest of the whole list of rows and the block's size; blocks of two plans are not the same rows
    block    its number in the plan
    rows     key, image, prompt and sha256 of the image's bytes ("" where they cannot be read)
    columns  by scorer
    turn     how many records of the block came before, in all logs: the largest is the latest, in whichever file
    versions of the libraries that computed what was new
    """

    plan: str
    block: int
    rows: tuple[Mapping[str, Any], ...]
    columns: Mapping[str, Column]
    turn: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_line(self) -> bytes:
        """JSON with a newline at its end."""
        scores = {
            name: {
                "settings": column.settings,
                "values": column.values,
                "errors": {str(place): reason for place, reason in column.errors.items()},
            }
            for name, column in self.columns.items()
        }
        content = {"plan": self.plan, "block": self.block, "turn": self.turn, "versions": dict(self.versions)}
        content |= {"rows": self.rows, "scores": scores}
        # ASCII only: a lone surrogate in a prompt is then no obstacle.
        return json.dumps(content, allow_nan=False).encode("ascii") + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Record | None:
        """None for a line that is not whole."""
        try:
            content = json.loads(line)
            columns = {
                name: Column(
                    column["settings"],
                    tuple(column["values"]),
                    {int(place): reason for place, reason in column["errors"].items()},
                )
                for name, column in content["scores"].items()
            }
            # The first logs had no turns and no versions.
            later = int(content.get("turn", 0)), dict(content.get("versions", {}))
            return cls(content["plan"], content["block"], tuple(content["rows"]), columns, *later)
        except (ValueError, KeyError, TypeError, AttributeError):
            return None


@dataclass(frozen=True)
class History:
    """The records of one block, oldest first, with the columns that count under the settings in force."""

    records: tuple[Record, ...]

    def find(self, scorer: str, place: int, sha256: str, prompt: str | None) -> tuple[float | None, str | None]:
        """The score of these bytes and this prompt at a place, or why there is none; neither where none was tried.

        A score counts more than a failure, and else the latest answer: the bytes may have been others in between.
        """
        reason = None
        for record in reversed(self.records):
            column = record.columns.get(scorer)
            if column is None or place >= len(record.rows) or _shown(record.rows[place]) != (sha256, prompt):
                continue
            if column.values[place] is not None:
                return column.values[place], None
            reason = reason or column.errors.get(place)
        return None, reason

    def newest(self) -> Record | None:
        """The latest rows, whichever scorer saw them, with what each scorer said of just these; None without scores.

        Where a scorer saw other bytes only, that is the reason why there is no score.
        """
        scored = {name: column.settings for record in self.records for name, column in record.columns.items()}
        if not scored:
            return None
        last = self.records[-1]
        columns = {name: self._column(name, settings, last.rows) for name, settings in scored.items()}
        return replace(last, columns=columns)

    def _column(self, scorer: str, settings: str, rows: Sequence[Mapping[str, Any]]) -> Column:
        found = [self.find(scorer, place, *_shown(row)) for place, row in enumerate(rows)]
        errors = {place: reason or _CHANGED for place, (value, reason) in enumerate(found) if value is None}
        return Column(settings, tuple(value for value, _ in found), errors)


class ScoreLog:
    """The logs in a folder, and the one that this process adds to. A context manager: it holds the latter's lock.

    What is held in memory is the place of each block's line; the scores of other plans (the same pictures in another
    list) are held by key, about 150 bytes each.

    Args:
        folder: is made where it does not exist.
        plan: the list of rows that is being scored.
        settings: by scorer, the text under which scores may be reused: all that decides them but bytes and prompt.
        shard: the process's number and how many there are.
        reuse: folders of other runs, whose scores are taken over as those of other plans are.
        versions: of the libraries in use, to be noted with each line.
    """

    def __init__(
        self,
        folder: Path,
        plan: str,
        settings: Mapping[str, str],
        shard: tuple[int, int] = (0, 1),
        reuse: Sequence[Path] = (),
        versions: Mapping[str, str] | None = None,
    ) -> None:
        self.versions = dict(versions or {})
        self.folder, self.plan, self.settings, self.reuse = folder, plan, dict(settings), tuple(reuse)
        self.file = folder / f"log-{shard[0]}-of-{shard[1]}.jsonl"
        self._lines: dict[int, list[tuple[int, Path, int]]] = {}
        self._others: dict[bytes, float] = {}
        self._stream: BinaryIO | None = None
        self._lock: IO[str] | None = None

    def __enter__(self) -> ScoreLog:
        """Raises UserError: the folder cannot be made, another process writes this log, or one to reuse has none."""
        if bare := next((folder for folder in self.reuse if not any(folder.glob(_LOGS))), None):
            raise UserError(f"{bare} holds no scores of an earlier run; name a folder that `palate score` wrote into")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = self.file.with_name(f".{self.file.stem}.lock").open("w")
            self._stream = self.file.open("ab+")
        except OSError as error:
            raise UserError(f"{self.folder} cannot be written to: {error.strerror}; choose another one") from None
        self._claim(self._lock)
        _drop_half_line(self._stream)
        self.read()
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self._stream, self._lock):
            if file is not None:
                file.close()
        self._stream = self._lock = None

    def read(self) -> None:
        """Take in all logs of the folder as they are now."""
        self._lines.clear()
        self._others.clear()
        for file in sorted(self.folder.glob(_LOGS)):
            for offset, record in _records(file):
                if record.plan == self.plan:
                    self._lines.setdefault(record.block, []).append((record.turn, file, offset))
                else:
                    self._take_over(record)
        for folder in self.reuse:
            for file in sorted(folder.glob(_LOGS)):
                for _, record in _records(file):
                    self._take_over(record)

    def append(self, record: Record) -> None:
        """Write a line, as the block's latest, and wait until it is on disk."""
        assert self._stream is not None, "append within the context"
        places = self._lines.setdefault(record.block, [])
        turn = max((turn for turn, _, _ in places), default=0) + 1
        record = replace(record, turn=turn, versions=self.versions)
        offset = self._stream.seek(0, os.SEEK_END)
        self._stream.write(record.to_line())
        self._stream.flush()
        os.fsync(self._stream.fileno())
        places.append((record.turn, self.file, offset))

    def block(self, number: int) -> Record | None:
        """A block of this plan as it was seen last; see `History.newest`."""
        return self.history(number).newest()

    def history(self, number: int) -> History:
        """All that the logs know of a block of this plan."""
        records: list[Record] = []
        for _, file, offset in sorted(self._lines.get(number, ())):
            with open(file, "rb") as stream:
                stream.seek(offset)
                record = Record.from_line(stream.readline())
            if record is not None:
                valid = {
                    name: column
                    for name, column in record.columns.items()
                    if column.settings == self.settings.get(name)
                }
                records.append(replace(record, columns=valid))
        return History(tuple(records))

    def other_versions(self, blocks: int) -> list[dict[str, str]]:
        """Versions other than those in use that computed scores of this plan, in the order of their texts."""
        found = {
            json.dumps(dict(record.versions), sort_keys=True)
            for number in range(blocks)
            for record in self.history(number).records
            if record.columns and record.versions
        }
        return [json.loads(text) for text in sorted(found - {json.dumps(self.versions, sort_keys=True)})]

    def elsewhere(self, scorer: str, sha256: str, prompt: str | None) -> float | None:
        """The score of the same bytes, prompt and settings in another plan; failures are tried again."""
        return self._others.get(_key(scorer, sha256, prompt)) if self._others else None

    def _take_over(self, record: Record) -> None:
        for name, column in record.columns.items():
            if column.settings != self.settings.get(name):
                continue
            for row, value in zip(record.rows, column.values, strict=True):
                if value is not None:
                    self._others.setdefault(_key(name, row["sha256"], row["prompt"]), value)

    def _claim(self, lock: IO[str]) -> None:
        """On a file of its own: to close any other handle of a locked file, as reading does, would free the lock."""
        try:
            import fcntl
        except ImportError:  # Windows
            return
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                self.__exit__()
                raise UserError(
                    f"another process is writing {self.file}; wait for it, or choose another folder or shard"
                ) from None


def _records(file: Path) -> Iterator[tuple[int, Record]]:
    with open(file, "rb") as stream:
        offset = 0
        for line in stream:
            record = Record.from_line(line) if line.endswith(b"\n") else None  # another shard may be writing it
            if record is not None:
                yield offset, record
            offset += len(line)


def _drop_half_line(stream: BinaryIO, chunk: int = 1 << 16) -> None:
    """Cut off what follows the last newline: a process was killed while it wrote."""
    end = position = stream.seek(0, os.SEEK_END)
    while position > 0:
        start = max(0, position - chunk)
        stream.seek(start)
        found = stream.read(position - start).rfind(b"\n")
        if found >= 0:
            position = start + found + 1
            break
        position = start
    if position < end:
        stream.truncate(position)
        stream.seek(0, os.SEEK_END)


def _shown(row: Mapping[str, Any]) -> tuple[str, str | None]:
    """What a score is of."""
    return row["sha256"], row["prompt"]


def _key(scorer: str, sha256: str, prompt: str | None) -> bytes:
    text = json.dumps([scorer, sha256, prompt])
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
