"""What models answered, on disk before the next batch is asked: a build that is killed goes on with that batch."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ....errors import UserError
from ....rewards.scorer import folder_digest
from ....rewards.thoughts import conclusion
from ....training.disk import full_disk_explained

_QUOTES = {'"': '"', "'": "'", "“": "”", "«": "»", "`": "`"}


@dataclass(frozen=True)
class Answer:
    """A text, or None and the reason why there is none."""

    text: str | None
    reason: str = ""


class AnswerLog:
    """Answers by key in a file of JSON lines, a line for each batch. A context manager: it holds the file's lock.

    A line is written whole or it does not count. What is held in memory is the place of each answer's line.

    Args:
        file: is made where it does not exist.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lines: dict[str, int] = {}
        self._stream: BinaryIO | None = None

    def __enter__(self) -> AnswerLog:
        """Raises UserError: the file cannot be written, or another process writes it."""
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self._stream = self.file.open("ab+")
        except OSError as error:
            raise UserError(f"{self.file} cannot be written to: {error.strerror}; choose another output") from None
        self._claim(self._stream)
        self._stream.seek(0)
        whole = 0
        for line in self._stream:
            if not line.endswith(b"\n"):
                break
            with contextlib.suppress(ValueError):  # a damaged line is asked again
                self._note(whole, json.loads(line))
            whole += len(line)
        self._stream.truncate(whole)  # a process was killed while it wrote
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream is not None:
            if not self._lines:  # nobody was asked
                self.file.unlink(missing_ok=True)
            self._stream.close()
            self._stream = None

    def __contains__(self, key: str) -> bool:
        return key in self._lines

    def find(self, key: str) -> Answer | None:
        """The answer; None where nobody was asked."""
        offset = self._lines.get(key)
        if offset is None:
            return None
        assert self._stream is not None, "find within the context"
        self._stream.seek(offset)
        return Answer(*json.loads(self._stream.readline())[key])

    def add(self, answers: Mapping[str, Answer]) -> None:
        """Write a batch as one line, and wait until it is on disk."""
        assert self._stream is not None, "add within the context"
        content = {key: [answer.text, answer.reason] for key, answer in answers.items()}
        offset = self._stream.seek(0, os.SEEK_END)
        with full_disk_explained(f"writing {self.file}"):
            # ASCII only: half an emoji, which a model may write, is then no obstacle.
            self._stream.write(json.dumps(content).encode("ascii") + b"\n")
            self._stream.flush()
            os.fsync(self._stream.fileno())
        self._note(offset, content)

    def _note(self, offset: int, content: Mapping[str, object]) -> None:
        self._lines.update(dict.fromkeys(content, offset))

    def _claim(self, stream: BinaryIO) -> None:
        try:
            import fcntl
        except ImportError:  # Windows
            return
        try:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):  # others: this file system has no locks
                stream.close()
                raise UserError(
                    f"another process is writing {self.file}; wait for it, or choose another output"
                ) from None


def tidy(answer: str) -> str:
    """An answer as a caption: one line, without the quotation marks around it or thoughts before it.

    Thoughts that do not end are followed by no caption: "".
    """
    text = " ".join((conclusion(answer) or "").encode("utf-8", "ignore").decode().split())
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and text[0] not in text[1:-1]:
        text = text[1:-1].strip()
    return text


def first_line(answer: str) -> str:
    """The first line that says something: a model that does not chat goes on and on."""
    return next((line for line in answer.splitlines() if line.strip()), "")


def identity(model: str) -> str:
    """A local folder by the names and contents of its files, a hub id by its name."""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return model
    return f"sha256 {folder_digest(folder)}"
