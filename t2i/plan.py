"""The plan of a data set: which groups will be trained on, with their labels, prompts and picture hashes.

Made in one streaming pass over the set; small enough to hold a million groups, for it has no pictures in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa

from ..datasets.ahead import default_workers, ordered_map
from ..datasets.digest import digest
from ..datasets.group import Group
from ..datasets.images import first_fault, image_size
from ..datasets.skips import UNREADABLE, SkipLog
from ..datasets.store import GroupStore
from ..errors import UserError
from ..training.order import epoch_order
from ..training.seeds import mix
from .method import Method

SCHEMA = pa.schema(
    {
        "row": pa.int64(),
        "prompt": pa.string(),
        "prompts": pa.list_(pa.string()),
        "labels": pa.list_(pa.float64()),
        "images": pa.list_(pa.string()),
        "seeds": pa.list_(pa.int64()),
    }
)
TIE = "tie"
TOO_FEW = "too few candidates"
ANOTHER_SIZE = "not of the training resolution"
ANOTHER_FAMILY = "drawn by a model of another family"
LACKS = {"captions": "no captions of their own", "seeds": "no generation seeds"}
"""By what a method requires: why a group without it is left out."""
_CHUNK = 1000  # groups; Arrow tables are built from this many rows at a time


@dataclass(frozen=True)
class Entry:
    """One group of the plan, most preferred candidate first.

    row      its number in the store
    prompt   the group's
    prompts  one per candidate: its own caption if it has one, else the group's prompt
    labels   one per candidate
    images   the hash of each candidate's bytes
    seeds    what each candidate was generated from, None where unknown
    """

    row: int
    prompt: str
    prompts: tuple[str, ...]
    labels: tuple[float, ...]
    images: tuple[str, ...]
    seeds: tuple[int | None, ...]


@dataclass(frozen=True)
class Plan:
    """The entries that remain, and what was left out and why.

    rankings   groups of more candidates than the method takes
    captioned  groups with a caption for each candidate
    foreign    models of another family that drew pictures, which are left out
    """

    table: pa.Table
    skipped: dict[str, int]
    rankings: int
    data_hash: str
    captioned: int = 0
    foreign: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.table.num_rows

    def __getitem__(self, index: int) -> Entry:
        row = self.table.slice(index, 1).to_pylist()[0]
        lists = (tuple(row[name]) for name in ("prompts", "labels", "images", "seeds"))
        return Entry(row["row"], row["prompt"], *lists)

    @property
    def size(self) -> int:
        """Candidates of each group, the same for all."""
        return len(self[0].prompts)

    def subset(self, indices: list[int]) -> Plan:
        """The same plan with these entries only."""
        return replace(self, table=self.table.take(pa.array(indices, pa.int64())))

    @property
    def says_nothing(self) -> bool:
        """Whether every group is a tie, single pictures apart."""
        labels = self._labels()
        return labels.shape[1] > 1 and bool((labels[:, 0] == labels[:, -1]).all())

    def _labels(self) -> np.ndarray:
        """Float64 `[len(self), size]`."""
        return self.table["labels"].combine_chunks().flatten().to_numpy().reshape(len(self), -1)

    def easiest(self, seed: int) -> np.ndarray:
        """The entries from the widest difference of labels, best to worst, to the narrowest; int64 `[len(self)]`.

        Curriculum-DPO's order (arXiv 2405.13637), whose labels are ranks. Equal differences are shuffled by the seed:
        they would stand as in the file, prompts of one kind together. Raises UserError where all are equal, and for
        single pictures.
        """
        labels = self._labels()
        if labels.shape[1] == 1:
            raise UserError(
                "data.order is curriculum, which goes by the difference of labels in a group, and this run takes "
                "single pictures, which have none; set data.order to random"
            )
        difference = labels[:, 0] - labels[:, -1]
        if len(self) > 1 and difference.min() == difference.max():
            raise UserError(
                f"data.order is curriculum, but the labels of all {len(self)} groups differ by {difference[0]:g}: none "
                "is easier than another; label them by scores (`palate data label`), or set data.order to random"
            )
        return np.lexsort((epoch_order(mix(seed), 0, len(self)), -difference))

    def prompts(self) -> list[str]:
        """Every distinct prompt, in the order of first use."""
        return list(dict.fromkeys(self.table["prompts"].combine_chunks().flatten().to_pylist()))


def make_plan(
    store: GroupStore,
    method: Method,
    ties: str,
    log: SkipLog,
    on_group: Callable[[int], None] | None = None,
    resolution: int | None = None,
    pairs: str = "extremes",
    foreign: Callable[[str], bool] = lambda model: False,
) -> Plan:
    """Look at every group once: sort it, drop ties if asked to, skip what cannot be decoded, hash the pictures.

    Args:
        resolution: pixels a side that pictures are framed to; read by methods that need the noise of a whole picture.
        pairs: `all` makes an entry of each two candidates of a ranking.
        foreign: whether a model of that name is of another family; asked by methods that need a picture's noise.

    Raises UserError if nothing remains, groups are of several sizes after the method's choice, or all pairs are asked
    for by a method that takes none.
    """
    if pairs == "all" and method.candidates != 2:
        raise UserError(f"data.pairs is all, and {method.name} does not take pairs; leave it out")
    chunks, rows, rankings, captioned = [], [], 0, 0
    fingerprint, sizes, foreigners = [], set[int](), set[str]()

    def look(whole: Group) -> tuple[Group, set[str], str | None]:
        others = {model for model in whole.model or () if model and "seeds" in method.requires and foreign(model)}
        places = _places_without(others, whole, method, ties)
        return whole.take(places) if others else whole, others, first_fault(whole, places=places)

    for number, (_, (group, others, fault)) in enumerate(ordered_map(look, store, default_workers())):
        if on_group:
            on_group(1)
        reason = _unusable(group, fault, method, ties, resolution, others)
        if reason is None or reason[0] == ANOTHER_FAMILY:
            foreigners |= others
        if reason:
            log.add(group.key, *reason)
            continue
        rankings += pairs == "extremes" and method.candidates is not None and group.size > method.candidates
        captioned += group.captions is not None
        rows.extend(_row(number, group, chosen) for chosen in _choices(group, method, pairs, ties))
        sizes.add(len(rows[-1]["labels"]))
        if len(rows) >= _CHUNK:
            chunks.append(pa.Table.from_pylist(rows, SCHEMA))
            fingerprint.append(digest(*(str(row) for row in rows)))
            rows = []
    chunks.append(pa.Table.from_pylist(rows, SCHEMA))
    fingerprint.append(digest(*(str(row) for row in rows)))
    table = pa.concat_tables(chunks).combine_chunks()
    if table.num_rows == 0:
        raise UserError(_nothing_left(store, log, method, sorted(foreigners)))
    if len(sizes) > 1:
        raise UserError(
            f"groups have {' or '.join(map(str, sorted(sizes)))} candidates, and one run of {method.name} takes groups "
            "of one size: split the set, or train on one kind after the other"
        )
    return Plan(table, dict(log.counts), rankings, digest(*fingerprint), captioned, tuple(sorted(foreigners)))


def _places_without(models: set[str], group: Group, method: Method, ties: str) -> Sequence[int]:
    """The places of the candidates that none of these models drew; all where a method could not use what remains."""
    own = [place for place, model in enumerate(group.model or ()) if model not in models]
    if not models or len(own) < max(1, method.fewest) or (group.take(own).is_tie and ties == "drop"):
        return range(group.size)
    return own


def _unusable(
    group: Group,
    fault: str | None,
    method: Method,
    ties: str,
    resolution: int | None,
    foreign: set[str],
) -> tuple[str, str] | None:
    if fault:
        return UNREADABLE, fault
    if group.size < method.fewest:
        return TOO_FEW, f"{group.size}, {method.name} needs {method.fewest}"
    if group.is_tie and ties == "drop":
        return TIE, ""
    if others := sorted(foreign.intersection(group.model or ())):
        return ANOTHER_FAMILY, " and ".join(others)
    found = {"captions": group.captions is not None, "seeds": None not in (group.seed or (None,))}
    if lacking := next((LACKS[wanted] for wanted in sorted(method.requires) if not found[wanted]), None):
        return lacking, ""
    if "seeds" in method.requires and resolution is not None:
        sizes = {image_size(candidate) for candidate in group.candidates}
        if sizes != {(resolution, resolution)}:
            return ANOTHER_SIZE, " and ".join(f"{width} x {height}" for width, height in sorted(sizes))
    low, high = method.label_range or (-math.inf, math.inf)
    if not all(low <= label <= high for label in group.labels):
        return f"labels outside {low:g} to {high:g}", ", ".join(f"{label:g}" for label in group.labels)
    return None


def _choices(group: Group, method: Method, pairs: str, ties: str) -> Iterator[list[int]]:
    """The candidates of each entry that a group makes, most preferred first."""
    ranked = sorted(range(group.size), key=lambda i: -group.labels[i])
    if pairs == "extremes":
        yield [ranked[place] for place in method.pick(group.size)]
        return
    for better, worse in combinations(ranked, 2):
        if ties == "keep" or group.labels[better] > group.labels[worse]:
            yield [better, worse]


def _row(number: int, group: Group, chosen: Sequence[int]) -> dict[str, Any]:
    captions = group.captions or (group.prompt,) * group.size
    return {
        "row": number,
        "prompt": group.prompt,
        "prompts": [captions[i] for i in chosen],
        "labels": [group.labels[i] for i in chosen],
        "images": [digest(group.candidates[i]) for i in chosen],
        "seeds": [group.seed[i] if group.seed else None for i in chosen],
    }


def _nothing_left(store: GroupStore, log: SkipLog, method: Method, foreign: Sequence[str]) -> str:
    where = f"{len(store)} groups were read and none can be trained on"
    if set(log.counts) == {TIE}:
        return f"{where}: all are ties, in which no picture is preferred to another; label them again"
    if set(log.counts) == {TOO_FEW}:
        return f"{where}: {method.name} compares at least {method.fewest} candidates and these have fewer"
    if set(log.counts) == {LACKS["captions"]}:
        return f"{where}: {method.name} needs a caption for each candidate; `palate data captions` writes them"
    if set(log.counts) == {LACKS["seeds"]}:
        return f"{where}: {method.name} needs the seed that each picture was generated from"
    if set(log.counts) == {ANOTHER_SIZE}:
        return (
            f"{where}: {method.name} needs pictures as they were drawn, and these are {log.examples[0].detail}; set "
            "data.resolution to their size"
        )
    if set(log.counts) == {ANOTHER_FAMILY}:
        return (
            f"{where}: {method.name} needs the noise that each picture was drawn from, and {' and '.join(foreign)}, "
            f"which drew them, {'is' if len(foreign) == 1 else 'are'} of another family than this model; give pictures "
            "of its own"
        )
    found = log.summary().replace(ANOTHER_FAMILY, f"{ANOTHER_FAMILY} ({' and '.join(foreign)})")
    check = "; `palate data check` names those that cannot be read" if UNREADABLE in log.counts else ""
    return f"{where} by {method.name}: {found}{check}"


def picture_bytes(store: GroupStore, entry: Entry) -> list[bytes]:
    """The encoded pictures of an entry's candidates, in its order."""
    by_hash = {digest(candidate): candidate for candidate in store[entry.row].candidates}
    return [by_hash[image] for image in entry.images]
