"""The data order: which groups an optimizer step sees, as a pure function of seed and step.

The groups form an infinite stream. Position p lies in epoch p // N, and each epoch is its own seeded permutation of the
N groups. Step s takes positions [s G, (s + 1) G), whatever the number of processes and the accumulation, so a run can
be resumed from its step number alone, and on another number of processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..errors import UserError
from .seeds import mix
from .task import Visit


@lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, groups: int) -> np.ndarray:
    """The permutation of `groups` in one epoch, int64 [groups], read-only.

    Sorting raw Philox words keeps the order across numpy versions: numpy promises stable bit streams, but not stable
    `permutation`s.
    """
    words = np.random.Philox(key=mix(seed, epoch)).random_raw(groups)
    order = np.argsort(words, kind="stable")
    order.flags.writeable = False
    return order


def visit_at(seed: int, groups: int, position: int) -> Visit:
    """The visit at one position of the stream."""
    epoch, place = divmod(position, groups)
    return Visit(position, int(epoch_order(seed, epoch, groups)[place]))


STAGES = 5
"""Of a curriculum."""


def staged_visit(seed: int, easiest: np.ndarray, visits: int, position: int) -> Visit:
    """The visit at one position of a run of `visits` that goes from easy groups to hard ones.

    Curriculum-DPO (Croitoru et al. 2024, arXiv 2405.13637): the groups are cut into stages by how hard they are, and
    each stage is trained on for an equal share of the run, in a seeded order of its own.

    Args:
        easiest: group numbers, easiest first, int64 `[groups]`.
        visits: of the whole run; positions beyond stay with the hardest stage.
    """
    stages = min(STAGES, len(easiest))
    stage = min(position * stages // visits, stages - 1)
    members = np.array_split(easiest, stages)[stage]
    first = -(-stage * visits // stages)  # the stage's first position
    epoch, place = divmod(position - first, len(members))
    return Visit(position, int(members[epoch_order(mix(seed, stage), epoch, len(members))[place]]))


@dataclass(frozen=True)
class Shares:
    """How one step's batch is shared out: `accumulation` micro-batches on each of `processes`."""

    batch_size: int
    micro_batch: int
    processes: int = 1

    def __post_init__(self) -> None:
        if self.batch_size % (self.micro_batch * self.processes):
            raise UserError(
                f"training.batch_size {self.batch_size} is not a multiple of {self.micro_batch * self.processes}, "
                f"which is training.micro_batch {self.micro_batch} x {self.processes} process(es); change one of them"
            )

    @property
    def accumulation(self) -> int:
        """Forward and backward passes per optimizer step and process."""
        return self.batch_size // (self.micro_batch * self.processes)

    def positions(self, step: int, micro: int, rank: int) -> range:
        """Positions of one micro-batch of one process."""
        start = step * self.batch_size + (micro * self.processes + rank) * self.micro_batch
        return range(start, start + self.micro_batch)


@dataclass(frozen=True)
class MicroBatches:
    """A batch sampler for torch's DataLoader: the visits of one process's micro-batches, step after step.

    easiest  group numbers from easy to hard, for a curriculum over `stop` steps; None for a random order
    """

    seed: int
    groups: int
    shares: Shares
    rank: int
    start: int
    stop: int
    easiest: np.ndarray | None = None

    def __iter__(self) -> Iterator[list[Visit]]:
        for step in range(self.start, self.stop):
            for micro in range(self.shares.accumulation):
                positions = self.shares.positions(step, micro, self.rank)
                yield [self._visit(position) for position in positions]

    def _visit(self, position: int) -> Visit:
        if self.easiest is None:
            return visit_at(self.seed, self.groups, position)
        return staged_visit(self.seed, self.easiest, self.stop * self.shares.batch_size, position)

    def __len__(self) -> int:
        return (self.stop - self.start) * self.shares.accumulation
