"""The folder of a Syn-Pic set's pictures: whose it is, and files in it that are whole or absent."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ....errors import UserError
from ....training.disk import write_json
from .plan import Plan

SETTINGS = "synpic.json"
"""In the pictures' folder: what they were begun with."""


def claim(plan: Plan, folder: Path, out: Path) -> None:
    """Make `folder` the plan's, or make sure that it is.

    Raises:
        UserError: it was begun with other settings, it or the groups' folder holds something else, or it cannot be
            made.
    """
    for place, what in ((folder, "pictures"), (out, "groups")):
        if place.exists() and not place.is_dir():
            raise UserError(f"{place} is a file, and the {what} need a folder of that name; name another --out")
    file = folder / SETTINGS
    if not file.exists():
        for place in (folder, out):
            _require_room(place)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder} cannot be made: {error.strerror}; name another --out") from None
    with alone(folder):
        if not file.exists():
            write_json(file, plan.settings)
        before = _read(file)
    if changed := next(differences(before, plan.settings), None):
        raise UserError(f"{folder} was begun with other settings: {changed}; give the same, or name another --out")


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock within the block, after waiting for another process that has it."""
    with open(folder / ".lock", "a") as file:
        # No such module on Windows, no such lock on some network drives: there two processes must not start at once.
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            fcntl.lockf(file, fcntl.LOCK_EX)
        yield


def write_whole(file: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all, whichever process is killed."""
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(file)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def remove_parts(folder: Path) -> None:
    """Remove what killed processes left of `write_whole`; no process may be writing."""
    for part in folder.glob(".*.part"):
        part.unlink(missing_ok=True)


def _require_room(folder: Path) -> None:
    """Refuse a folder with other things than a run leaves that was killed before it wrote its settings."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if SETTINGS in names:  # of another shard, in this very moment
        return
    if any(name != ".lock" and not name.startswith(".partial-") for name in names):
        raise UserError(f"{folder} is not empty, and no Syn-Pic run began there; name another --out")


def _read(file: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{file} is damaged; repair it, or name another --out")
    return found


def differences(before: Any, now: Any, where: str = "") -> Iterator[str]:
    """What is not as it was, one phrase each."""
    if not (isinstance(before, Mapping) and isinstance(now, Mapping)):
        if before != now:
            yield f"{where} was {before} and is {now}"
        return
    if list(before) != list(now):
        yield f"{where} were {', '.join(before)} and are {', '.join(now)}"
        return
    for name, value in now.items():
        yield from differences(before[name], value, f"{where} {name}".strip())
