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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, BinaryIO

from ...errors import UserError
from .history import Answer, History, Record

_LOGS = "log-*-of-*.jsonl"


@dataclass(frozen=True)
class Terms:
    """On which terms a scorer's scores on record are its scores, and what computes those that are new.

    settings      all that decides them but bytes and prompt, as a text
    sees_prompts  whether the prompt decides them too
    versions      of the libraries that compute new ones, by `text_of`
    """

    settings: str
    sees_prompts: bool = True
    versions: str = ""


class ScoreLog:
    """The logs in a folder, and the one that this process adds to. A context manager: it holds the latter's lock.

    What is held in memory is the place of each block's line; the scores of other plans (the same pictures in another
    list) are held by key, about 200 bytes each.

    Args:
        folder: is made where it does not exist.
        plan: the list of rows that is being scored.
        terms: by scorer.
        shard: the process's number and how many there are.
        reuse: folders of other runs, whose scores are reused as those of other plans are.
    """

    def __init__(
        self,
        folder: Path,
        plan: str,
        terms: Mapping[str, Terms],
        shard: tuple[int, int] = (0, 1),
        reuse: Sequence[Path] = (),
    ) -> None:
        self.folder, self.plan, self.terms, self.reuse = folder, plan, dict(terms), tuple(reuse)
        self.file = folder / f"log-{shard[0]}-of-{shard[1]}.jsonl"
        self._lines: dict[int, list[tuple[int, Path, int]]] = {}
        self._others: dict[bytes, tuple[float, str]] = {}
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

    def turn_to(self, terms: Mapping[str, Terms], reuse: Sequence[Path] = ()) -> None:
        """Go on with other scorers, without letting go of the lock; see `read`."""
        self.terms, self.reuse = dict(terms), tuple(reuse)
        self.read()

    def read(self) -> None:
        """Take in all logs of the folder as they are now."""
        self._lines.clear()
        self._others.clear()
        for file in sorted(self.folder.glob(_LOGS)):
            for offset, record in _records(file):
                if record.plan == self.plan:
                    self._lines.setdefault(record.block, []).append((record.turn, file, offset))
                else:
                    self._keep(record)
        for folder in self.reuse:
            for file in sorted(folder.glob(_LOGS)):
                for _, record in _records(file):
                    self._keep(record)

    def append(self, record: Record) -> None:
        """Write a line, as the block's latest, and wait until it is on disk."""
        assert self._stream is not None, "append within the context"
        places = self._lines.setdefault(record.block, [])
        turn = max((turn for turn, _, _ in places), default=0) + 1
        record = replace(record, turn=turn)
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
                    if name in self.terms and column.settings == self.terms[name].settings
                }
                records.append(replace(record, columns=valid))
        return History(tuple(records))

    def other_versions(self, blocks: int) -> list[dict[str, str]]:
        """Versions other than those in use that computed scores of this plan, in the order of their texts."""
        found = {
            versions
            for number in range(blocks)
            for name, versions in self.history(number).versions()
            if versions != self.terms[name].versions
        }
        return [json.loads(text) for text in sorted(found)]

    def reused(self, scorer: str, sha256: str, prompt: str | None) -> Answer:
        """The score of the same bytes, prompt and terms in another plan; failures are tried again."""
        if not self._others:
            return Answer()
        value, versions = self._others.get(self._key(scorer, sha256, prompt), (None, ""))
        return Answer(value, versions=versions)

    def _keep(self, record: Record) -> None:
        for name, column in record.columns.items():
            if name not in self.terms or column.settings != self.terms[name].settings:
                continue
            for place, (row, value) in enumerate(zip(record.rows, column.values, strict=True)):
                if value is not None:
                    key = self._key(name, row["sha256"], row["prompt"])
                    self._others.setdefault(key, (value, column.versions.get(place, "")))

    def _key(self, scorer: str, sha256: str, prompt: str | None) -> bytes:
        text = json.dumps([scorer, sha256, prompt if self.terms[scorer].sees_prompts else None])
        return hashlib.blake2b(text.encode(), digest_size=16).digest()

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
