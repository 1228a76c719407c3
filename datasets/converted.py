"""The data as palate's Parquet: what is in another format is converted once, and again when its files change."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from .convert import convert_groups
from .digest import digest
from .images import IMAGE_SUFFIXES
from .open import detect_format
from .parquet import is_unfinished
from .store import GroupStore
from .table import SUFFIXES

Say = Callable[[str], None]

# Two folders take their prompts from .txt files; ImageRewardDB keeps its pictures in zips.
_DATA_FILES = {*IMAGE_SUFFIXES, *SUFFIXES, ".json", ".txt", ".parquet", ".zip"}


def open_converted(path: str, format: str, split: str | None, cache: Path, say: Say) -> GroupStore:
    """The data at `path` as palate's Parquet; any other format is converted once, into `cache`.

    Raises UserError: what `open_groups`, `convert_groups` and `GroupStore` raise.
    """
    format = detect_format(path, split) if format == "auto" else format
    if format == "parquet":
        return GroupStore(path, split)
    source = Path(path)
    name = digest("groups", str(source.resolve()), format, split or "", _stamp(source, cache))
    folder = cache / "groups" / name
    if not _is_whole(folder):
        with _alone(cache / "locks" / name, f"another process is converting {path}; waiting for it", say):
            if not _is_whole(folder):
                _convert(path, format, split, folder, say)
                return GroupStore(folder)
    say(f"reading the copy of {path} in {folder}")
    return GroupStore(folder)


def _is_whole(folder: Path) -> bool:
    return any(folder.glob("*.parquet")) and not is_unfinished(folder)


def _convert(path: str, format: str, split: str | None, folder: Path, say: Say) -> None:
    say(f"converting {path} ({format}) to {folder}")
    # Whether pictures are sound is looked at when the plan is made: one pass less over them.
    mode = "resume" if folder.is_dir() else "new"
    converted = convert_groups(path, folder, format=format, split=split, mode=mode, verify=False)
    if converted.skipped.total:
        say(f"{converted.skipped.total} groups left out: {converted.skipped.summary()}")
        for skipped in converted.skipped.examples[:5]:
            say(f"  {skipped}")


@contextlib.contextmanager
def _alone(lock: Path, busy: str, say: Say) -> Iterator[None]:
    """Wait, saying `busy`, while another process holds `lock`; the system frees it however that one ends."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with lock.open("w") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):  # others: this file system has no locks
                say(busy)
                fcntl.lockf(file, fcntl.LOCK_EX)
        yield


def _stamp(source: Path, cache: Path) -> str:
    """Changes with the names, sizes and times of the data files in a source's folder, in depth and behind links.

    A table file counts with all that lies beside it, where its pictures are, and a pattern with what it matches. What
    palate writes there itself, runs and the cache, does not count. A hub id has no stamp.
    """
    if source.exists():
        files = _data_files(source if source.is_dir() else source.parent, cache)
    else:
        files = map(Path, glob.glob(str(source), recursive=True))
    found = []
    for file in files:
        with contextlib.suppress(FileNotFoundError):  # a link into nowhere; the reader names it
            state = file.stat()
            found.append(f"{file} {state.st_size} {state.st_mtime_ns}")
    return digest(*sorted(found))


def _data_files(root: Path, cache: Path) -> Iterator[Path]:
    seen = {cache.resolve()}
    for folder, inner, names in os.walk(root, followlinks=True):
        place = Path(folder).resolve()
        is_run = "recipe.yaml" in names and "checkpoints" in inner
        if place in seen or is_run:
            inner.clear()
            continue
        seen.add(place)  # links may lead round in circles
        inner[:] = [name for name in inner if not name.startswith(".")]
        yield from (Path(folder, name) for name in names if Path(name).suffix.lower() in _DATA_FILES)
