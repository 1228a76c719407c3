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
overlap   `[B]`     of the winner's and the loser's residual, see `diffusion.likelihood.residual_overlap` (SDPO)
progress  `[B]`     the share of the run that is done, 0 in validation (PNAPO)
"""


@dataclass(frozen=True)
class Method:
    """One preference method.

    Attributes:
        name: as in a recipe.
        objective: `(policy_errors [B, k], reference_errors, labels) -> (loss, metrics)`.
        candidates: how many of a group's candidates it takes: 2 is the best and the worst, None is all of them.
        fewest: the smallest group that it can learn from.
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
        return range(count) if self.candidates is None or count < 2 else (0, count - 1)
