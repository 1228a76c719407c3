"""Turn any readable preference data into palate's Parquet shards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Literal

from ..errors import UserError
from .group import Group
from .open import open_groups
from .parquet import Written, write_groups
from .readable import readable_groups
from .skips import SkipLog


@dataclass(frozen=True)
class Converted:
    """What a conversion wrote and what it left out."""

    written: Written
    skipped: SkipLog


def convert_groups(
    source: str | Path,
    folder: str | Path,
    *,
    format: str = "auto",
    split: str | None = None,
    mode: Literal["new", "resume", "overwrite"] = "new",
    limit: int | None = None,
    verify: bool = True,
    shard_bytes: int = 256 << 20,
    on_group: Callable[[int], None] | None = None,
) -> Converted:
    """Stream `source` into `folder`; groups with an unreadable picture are logged and left out unless `verify` is off.

    `limit` takes the first groups only; `on_group(count)` is called as each group passes. An interrupted conversion
    leaves whole shards and goes on with mode="resume". Raises UserError: the folder is in use (see `write_groups`), it
    is the source itself or lies inside it, or nothing can be converted.
    """
    source_path, target = Path(source).resolve(), Path(folder).resolve()
    if target in (source_path, *source_path.parents):
        raise UserError(f"{folder} is, or holds, the source itself: name another folder")
    if source_path.is_dir() and source_path in target.parents:  # what is written would be read as part of the source
        raise UserError(f"{folder} lies inside the source {source}: name a folder outside (in a recipe: data.cache)")
    log = SkipLog()
    groups: Iterable[Group] = islice(open_groups(source, format, split=split, log=log), limit)
    if verify:
        groups = readable_groups(groups, log)
    groups = iter(groups)
    first = next(groups, None)  # before the folder is touched, so that a source with nothing in it leaves no trace
    if first is None:
        raise UserError(f"nothing to convert in {str(source)!r}: {_why_nothing(log)}")
    written = write_groups(_counted(chain([first], groups), on_group), folder, mode=mode, shard_bytes=shard_bytes)
    return Converted(written, log)


def _why_nothing(log: SkipLog) -> str:
    if not log.total:
        return "it holds no groups"
    return f"{log.summary()}; the first is {log.examples[0]}; correct the source, or name its format if it is another"


def _counted(groups: Iterable[Group], on_group: Callable[[int], None] | None) -> Iterator[Group]:
    for count, group in enumerate(groups, start=1):
        yield group
        if on_group is not None:
            on_group(count)
