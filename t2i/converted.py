"""The data as palate's Parquet: what is in another format is converted once, and again when its files change."""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from ..datasets.convert import convert_groups
from ..datasets.folders import IMAGE_SUFFIXES
from ..datasets.open import detect_format
from ..datasets.parquet import is_unfinished
from ..datasets.store import GroupStore
from ..datasets.table import SUFFIXES
from .cache import digest
from .recipe import DataConfig

Say = Callable[[str], None]

# Two folders take their prompts from .txt files; ImageRewardDB keeps its pictures in zips.
_DATA_FILES = {*IMAGE_SUFFIXES, *SUFFIXES, ".json", ".txt", ".parquet", ".zip"}


def open_store(data: DataConfig, say: Say) -> GroupStore:
    """The data as palate's Parquet; any other format is converted once, beside the cache."""
    format = detect_format(data.path, data.split) if data.format == "auto" else data.format
    if format == "parquet":
        return GroupStore(data.path, data.split)
    source, cache = Path(data.path), Path(data.cache or "cache").expanduser()
    name = digest("groups", str(source.resolve()), format, data.split or "", _stamp(source, cache))
    folder = cache / "groups" / name
    if folder.is_dir() and not is_unfinished(folder):
        say(f"reading the copy of {data.path} in {folder}")
    else:
        say(f"converting {data.path} ({format}) to {folder}")
        # Whether pictures are sound is looked at when the plan is made: one pass less over them.
        converted = convert_groups(
            data.path,
            folder,
            format=format,
            split=data.split,
            mode="resume" if folder.is_dir() else "new",
            verify=False,
        )
        if converted.skipped.total:
            say(f"{converted.skipped.total} groups left out: {converted.skipped.summary()}")
            for skipped in converted.skipped.examples[:5]:
                say(f"  {skipped}")
    return GroupStore(folder)


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
