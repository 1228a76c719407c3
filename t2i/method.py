"""What a method is: its four choices, and nothing else.

The data form is in `candidates`, `fewest` and `requires`, the corruption in `corruption`, the likelihood in `reduction`
and `weighting`, and the objective is a pure function of errors and labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from ..diffusion import NoiseProcess, Reduction
from ..diffusion.corruption import Corruption, ForwardNoise
from ..objectives import Objective

Requirement = Literal["captions", "seeds"]
"""What each candidate must bring beside its picture: a caption of its own, or the seed that it was generated from."""
Extra = Literal["drift", "overlap", "progress"]
"""What an objective may read beside errors and labels, as keywords of these names.

drift     `[B, k]`  mean squared distance between policy's and reference's prediction, with gradient (DSPO)
overlap   `[B, 2]`  of the winner's residual with itself and the loser's: `diffusion.likelihood.residual_overlap` (SDPO)
progress  `[B]`     the share of the run that is done, 0 in validation (PNAPO)
"""


@dataclass(frozen=True)
class Rival:
    """A last candidate that the reference draws for the group's prompt, in place of a loser from the data.

    Attributes:
        steps: of the checkpoint's own sampler.
        guidance: of the sampler; above 1 each step asks the network twice.
        every: training steps after which the reference is another of the policy's earlier states.
    """

    steps: int
    guidance: float
    every: int

    @property
    def calls(self) -> int:
        """Forward passes of the reference for one rival."""
        return self.steps * (1 if self.guidance == 1 else 2)


@dataclass(frozen=True)
class Method:
    """One preference method.

    Attributes:
        name: as in a recipe.
        objective: `(policy_errors [B, k], reference_errors, labels) -> (loss, metrics)`.
        candidates: how many of a group's candidates it takes: 1 is the best, 2 the best and the worst, None is all.
        fewest: the smallest group that it can learn from.
        rival: how one candidate more is drawn while training; None for methods that learn from the data alone.
        requires: what a group must bring to be used.
        label_range: the least and the largest label that a group may have; None for any.
        corruption: how a candidate becomes what the network sees.
        needs_reference: whether the frozen policy's errors are computed.
        reduction: of the squared error over a candidate's latent elements.
        weighting: `(process, times [n]) -> factors [n]` on the errors; None for 1.
        reads: what the objective takes beside errors and labels.
        over_batch: whether the objective compares a group with others of its micro-batch.
        temperature: the effective temperature on the mean error, for the log.
    """

    name: str
    objective: Objective
    candidates: int | None = 2
    fewest: int = 2
    rival: Rival | None = None
    requires: frozenset[Requirement] = frozenset()
    label_range: tuple[float, float] | None = None
    corruption: Corruption = field(default_factory=ForwardNoise)
    needs_reference: bool = True
    reduction: Reduction = "mean"
    weighting: Callable[[NoiseProcess, Tensor], Tensor] | None = None
    reads: frozenset[Extra] = frozenset()
    over_batch: bool = False
    temperature: float | None = None

    def pick(self, count: int) -> Sequence[int]:
        """Which of a group's `count` candidates, sorted best first, it uses."""
        if self.candidates is None or count < 2:
            return range(count)
        return (0, count - 1)[: self.candidates]

    def compared(self, count: int) -> int:
        """How many candidates stand beside each other in a step, if it takes `count` of a group's."""
        return count + (self.rival is not None)

    def calls(self, compared: int) -> float:
        """Forward passes for each of `compared` candidates, beside those of the loss."""
        return self.corruption.calls + (self.rival.calls / compared if self.rival else 0)
