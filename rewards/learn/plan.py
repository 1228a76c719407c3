"""Which preference groups train and which validate: one pass over a set, which leaves no picture in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from ...datasets.ahead import default_workers, ordered_map
from ...datasets.digest import digest
from ...datasets.group import Group
from ...datasets.holdout import is_held_out
from ...datasets.images import first_fault
from ...datasets.skips import UNREADABLE, SkipLog
from ...datasets.store import GroupStore
from ...errors import UserError

SCHEMA = pa.schema({"row": pa.int64(), "prompt": pa.string(), "ranks": pa.list_(pa.int32()), "source": pa.string()})
TIE = "tie"
SINGLE = "single candidate"
PROMPT = "unreadable prompt"
_CHUNK = 1000  # groups; Arrow tables are built from this many rows at a time


@dataclass(frozen=True)
class Entry:
    """One group of a set.

    row     its number in the store
    ranks   one per candidate, 0 for the lowest label; equal labels have one rank, and only order matters to training
    source  where the group is from
    """

    row: int
    prompt: str
    ranks: tuple[int, ...]
    source: str

    @property
    def decided(self) -> int:
        """How many of its pairs are no ties."""
        same = sum(count * (count - 1) // 2 for count in Counter(self.ranks).values())
        return self.pairs - same

    @property
    def pairs(self) -> int:
        """How many pairs its candidates make."""
        return len(self.ranks) * (len(self.ranks) - 1) // 2


@dataclass(frozen=True)
class Plan:
    """The groups of a set that can be compared; `data_hash` changes with any picture, prompt or label of them."""

    store: GroupStore
    table: pa.Table
    data_hash: str

    def __len__(self) -> int:
        return self.table.num_rows

    def __getitem__(self, index: int) -> Entry:
        row = self.table.slice(index, 1).to_pylist()[0]
        return Entry(row["row"], row["prompt"], tuple(row["ranks"]), row["source"])

    def subset(self, keep: Callable[[Entry], bool]) -> Plan:
        """The same plan with these entries only."""
        kept = [index for index in range(len(self)) if keep(self[index])]
        return Plan(self.store, self.table.take(pa.array(kept, pa.int64())), self.data_hash)

    @cached_property
    def prompt_counts(self) -> Counter[str]:
        """How many entries have each prompt."""
        return Counter(self.table["prompt"].to_pylist())


def make_plan(store: GroupStore, log: SkipLog, on_group: Callable[[], None] | None = None) -> Plan:
    """Look at every group once; leave out what has a single candidate or a picture that cannot be read.

    Raises UserError if nothing remains.
    """
    chunks, rows, hashes = [], [], []
    for number, (group, fault) in enumerate(ordered_map(first_fault, store, default_workers())):
        if on_group:
            on_group()
        if fault:
            log.add(group.key, UNREADABLE, fault)
        elif group.size < 2:
            log.add(group.key, SINGLE)
        else:
            rows.append(_row(number, group))
            hashes.append(_hash(group))
        if len(rows) == _CHUNK:
            chunks.append(pa.Table.from_pylist(rows, SCHEMA))
            hashes, rows = [digest(*hashes)], []
    chunks.append(pa.Table.from_pylist(rows, SCHEMA))
    table = pa.concat_tables(chunks).combine_chunks()
    if table.num_rows == 0:
        raise UserError(
            f"{len(store)} groups were read and none can be compared: {log.summary()}; `palate data check` lists them"
        )
    return Plan(store, table, digest(*hashes))


def split_plan(plan: Plan, share: float) -> tuple[Plan, Plan | None]:
    """Training and held-out entries; a prompt is wholly in one of them.

    Raises UserError if either would be empty.
    """
    if share == 0:
        return plan, None
    train = plan.subset(lambda entry: not is_held_out(entry.prompt, share))
    held_out = plan.subset(lambda entry: is_held_out(entry.prompt, share))
    if not len(train) or not len(held_out):
        side = "every" if not len(train) else "no"
        raise UserError(f"data.holdout={share} would hold {side} prompt out of {len(plan)} groups; change it or set 0")
    return train, held_out


def without_ties(plan: Plan, log: SkipLog) -> Plan:
    """The entries in which something is preferred.

    Raises UserError if there are none.
    """
    kept = plan.subset(lambda entry: entry.decided > 0)
    log.counts[TIE] += len(plan) - len(kept)
    if not len(kept):
        raise UserError(f"all {len(plan)} groups are ties, from which nothing can be learned; label them again")
    return kept


def without_faults(plan: Plan, fault: Callable[[str], str | None], log: SkipLog) -> Plan:
    """The entries whose prompts have no `fault`.

    Raises UserError if there are none.
    """
    faults = {prompt: told for prompt in plan.prompt_counts if (told := fault(prompt))}
    if not faults:
        return plan
    for prompt, told in faults.items():
        for _ in range(plan.prompt_counts[prompt]):
            log.add(repr(prompt), PROMPT, told)
    kept = plan.subset(lambda entry: entry.prompt not in faults)
    if not len(kept):
        raise UserError(f"none of {len(plan)} groups has a prompt that can be read: {next(iter(faults.values()))}")
    return kept


def _row(number: int, group: Group) -> dict[str, object]:
    rank_of = {label: rank for rank, label in enumerate(sorted(set(group.labels)))}
    ranks = [rank_of[label] for label in group.labels]
    return {"row": number, "prompt": group.prompt, "ranks": ranks, "source": group.source or "unknown"}


def _hash(group: Group) -> str:
    return digest(group.prompt, str(group.labels), *group.candidates)
