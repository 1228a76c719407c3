"""Files that are whole or absent, and one clear line when the disk is full."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import PalateError

PARTIAL = ".partial-"
"""Prefix of what is being written or removed; what a killed process left of it is deleted at the next start."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def full_disk_explained(doing: str) -> Iterator[None]:
    """Turn a full disk, a used-up quota or a file-size limit into a PalateError."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise PalateError(
            f"{os.strerror(error.errno)} while {doing}; free some space and run the same command again, "
            "it resumes from the last good checkpoint"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write a small file so that a reader sees the old text or the new, never a part."""
    partial = path.with_name(PARTIAL + path.name)
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """As `write_text`, with JSON that a person can read."""
    write_text(path, json.dumps(value, indent=2) + "\n")


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to write into; it becomes `path`, replacing what was there, only if the block ends well."""
    partial = path.with_name(PARTIAL + path.name)
    remove_tree(partial)
    partial.mkdir(parents=True)
    try:
        yield partial
        _sync(partial)
        remove_tree(path)
        partial.rename(path)
        _sync_folder(path.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def remove_tree(path: Path) -> None:
    """Remove a folder; killed half-way, what is left no longer bears its name."""
    if not path.exists():
        return
    doomed = path.with_name(f"{PARTIAL}removed-{path.name.removeprefix(PARTIAL)}")
    shutil.rmtree(doomed, ignore_errors=True)
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process left half-written in `folder`."""
    for path in folder.glob(PARTIAL + "*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def hashed(file: Path, state: Any) -> Any:
    """`state`, one of hashlib's, after the bytes of a file of any size."""
    with file.open("rb") as stream:
        while block := stream.read(1 << 23):
            state.update(block)
    return state


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # a folder cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
