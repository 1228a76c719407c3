"""What the methods' sections of a recipe have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypedDict

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from ...objectives import Objective
    from ..method import Extra


class MethodSettings(BaseModel):
    """A `method` section: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class GuardedSettings(MethodSettings):
    """Of a method that pushes a loser away.

    `safeguard` is Diffusion-SDPO's (arXiv 2511.03317): the loser's gradient is scaled down where it would raise the
    winner's error. Official: 0.9 on SD1.5 (0.2 with DSPO), 0.6 on SDXL; None leaves it out.
    """

    safeguard: float | None = Field(
        default=None, gt=0, lt=1, description="Diffusion-SDPO's mu: how much of the winner's fall is kept"
    )


class PairSettings(GuardedSettings):
    """Of a method that compares two candidates against a reference."""

    reduction: Literal["mean", "sum"] = "mean"


class Guarded(TypedDict):
    """The fields of a `Method` that the safeguard decides about."""

    objective: Objective
    reads: frozenset[Extra]
    over_batch: bool


def guarded(
    objective: Objective, mu: float | None, reads: frozenset[Extra] = frozenset(), over_batch: bool = False
) -> Guarded:
    """The objective with Diffusion-SDPO's safeguard, or as it is where mu is None.

    Args:
        reads: what the objective itself reads beside errors and labels.
        over_batch: whether it compares a group with others of its micro-batch by itself.
    """
    if mu is None:
        return Guarded(objective=objective, reads=reads, over_batch=over_batch)
    from ...objectives import safeguarded

    # The safeguard is one number for the micro-batch.
    overlap: frozenset[Extra] = frozenset({"overlap"})
    return Guarded(objective=safeguarded(objective, mu), reads=reads | overlap, over_batch=True)
