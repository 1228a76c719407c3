"""What captions are built from what, by whom; and whether a folder may be written to."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from .... import __version__
from ....datasets.digest import digest
from ....datasets.group import Group
from ....datasets.open import detect_format, open_groups, open_prompts
from ....datasets.parquet import own_shards
from ....datasets.readable import readable_groups
from ....datasets.skips import SkipLog
from ....datasets.sources import looks_like_hub_id
from ....errors import UserError
from .captioner import Captioner
from .dual import MODES
from .perturb import ModelPerturber
from .rules import RulePerturber

PROVENANCE = "captions.json"
_LOOK = 16  # groups that are looked at before a model is loaded


@dataclass(frozen=True)
class Source:
    """Groups that are read again in each pass; see `open_groups`."""

    path: str
    format: str = "auto"
    split: str | None = None
    limit: int | None = None

    def groups(self, log: SkipLog | None = None) -> Iterator[Group]:
        """From the first on. Raises UserError: see `open_groups`."""
        return islice(open_groups(self.path, self.format, split=self.split, log=log), self.limit)

    def stamp(self) -> str:
        """Changes with the names, sizes and times of its files; of a hub id always the same.

        Pictures that a table names are not looked at.
        """
        path = Path(self.path).expanduser()
        files = path.rglob("*") if path.is_dir() else map(Path, glob.glob(str(path), recursive=True))
        states = [(file, file.stat()) for file in sorted(files) if file.is_file()]
        return digest(*(f"{file} {state.st_size} {state.st_mtime_ns}" for file, state in states))

    def count(self) -> int | None:
        """How many there are, where that is told without reading pictures."""
        if looks_like_hub_id(self.path) or self.format not in ("auto", "parquet", "pickapic"):
            return None
        if detect_format(self.path, self.split) not in ("parquet", "pickapic"):
            return None
        return sum(1 for _ in islice(open_prompts(self.path, self.split), self.limit))


@dataclass(frozen=True)
class CaptionPlan:
    """What is built, and by whom.

    mode       a name in `MODES`
    captioner  who says what a picture shows; None where the mode needs no captions, or the groups have them
    perturber  who changes captions; None in mode `caption`
    """

    mode: str
    captioner: Captioner | None = None
    perturber: RulePerturber | ModelPerturber | None = None

    def __post_init__(self) -> None:
        """Raises UserError: there is no such mode, it lacks what it needs, or it has no use for what is given."""
        if self.mode not in MODES:
            raise UserError(f"there is no mode {self.mode!r}; there are {', '.join(MODES)}")
        if self.mode == "caption" and self.captioner is None:
            raise UserError(f"mode caption needs {_CAPTIONER}")
        if self.mode == "caption" and self.perturber is not None:
            raise UserError("mode caption changes no caption: leave the perturber out, or take mode hybrid")
        if self.mode == "perturb" and self.captioner is not None:
            raise UserError("mode perturb keeps the prompts: leave the captioner out, or take mode hybrid")
        if self.mode != "caption" and self.perturber is None:
            raise UserError(f"mode {self.mode} needs a perturber: rules, or a language model")


_CAPTIONER = "a captioner: the folder or the hub id of a vision-language chat model"


def provenance(source: Source, plan: CaptionPlan) -> dict[str, Any]:
    """How the captions are made, as JSON values: what a build that goes on must have in common with the stopped one."""
    return {
        "palate": __version__,
        "source": source.path,
        "split": source.split,
        "limit": source.limit,
        "mode": plan.mode,
        "captioner": plan.captioner and plan.captioner.settings(),
        "perturber": plan.perturber and plan.perturber.settings(),
    }


def require_source(source: Source, plan: CaptionPlan) -> None:
    """Refuse, before a model is loaded, a source of which nothing could be made.

    Raises:
        UserError: it cannot be read, holds no groups or no pictures, or lacks captions that the mode needs.
    """
    log = SkipLog()
    first = next(readable_groups(islice(source.groups(log), _LOOK), log), None)
    if first is None:
        why = f"{log.summary()}; the first is {log.examples[0]}" if log.total else "it holds no groups"
        raise UserError(f"no picture can be read at the beginning of {source.path!r}: {why}")
    if plan.mode == "hybrid" and plan.captioner is None and first.captions is None:
        raise UserError(f"these groups have no captions, so mode hybrid needs {_CAPTIONER}")


def require_room(source: Source, out: Path, settings: dict[str, Any], overwrite: bool) -> None:
    """Refuse an output that is in use; what a stopped build with the same settings left is free to be replaced.

    Raises:
        UserError: it is a file, is or holds or lies in the source, or holds something else.
    """
    path, target = Path(source.path).expanduser().resolve(), out.resolve()
    if target in (path, *path.parents):
        raise UserError(f"{out} is, or holds, the source itself: name another folder")
    if path.is_dir() and path in target.parents:  # what is written would be read as part of the source
        raise UserError(f"{out} lies inside the source {source.path}: name a folder outside")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: name a folder for the groups")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not (overwrite or _left_behind(out) == settings):
        raise UserError(f"{out} is not empty: name another folder, or overwrite it (--overwrite)")
    own_shards(out)


def ended(source: Source, out: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The numbers of a build with the same settings that ended, of this source as it is, and whose shards are there."""
    found = _left_behind(out)
    numbers = found.pop("written", None) if isinstance(found, dict) else None
    if not isinstance(numbers, dict) or found != settings:
        return None
    size = sum(shard.stat().st_size for shard in own_shards(out))
    # The first builds noted neither size nor stamp.
    as_it_was = size == numbers.get("bytes", size) and numbers.get("stamp") in (None, source.stamp())
    return numbers if size and as_it_was else None


def _left_behind(out: Path) -> Any:
    """The settings of a build that was stopped; a finished one has its numbers beside them."""
    try:
        return json.loads((out / PROVENANCE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
