"""Many judges, one label: the scores of a prompt's candidates by several scorers, combined.

A table of scores is `[k, n]`: k candidates of one prompt, n scorers, higher is better. Labels are `[k]`, higher is
preferred; only their order and differences within the prompt mean anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from ...errors import UserError

Scores = np.ndarray
"""Float `[k, n]`, finite in all functions but `combine`."""


def z_scores(scores: Scores) -> np.ndarray:
    """Each scorer's scores with mean 0 and population standard deviation 1 over the candidates, `[k, n]`.

    A scorer that gives all candidates the same has no say: 0 for all.
    """
    centred = scores - scores.mean(axis=0)
    equal = scores.max(axis=0) == scores.min(axis=0)
    return np.where(equal, 0.0, centred / np.where(equal, 1.0, scores.std(axis=0)))


def weighted_sum(scores: Scores, weights: np.ndarray) -> np.ndarray:
    """sum_s w_s r_is, `[k]`, to a billionth of the largest term.

    Two judges who disagree by the same amount make a tie; the last bit of a float would make it a preference.
    """
    terms = scores * weights
    largest = np.abs(terms).max()
    step = np.exp2(np.floor(np.log2(largest)) - 30) if largest > 0 else 1.0  # a power of two: 0.5 stays 0.5
    return np.round(terms.sum(axis=1) / step) * step


def ranks(scores: Scores) -> np.ndarray:
    """For each scorer 1 for the worst candidate to k for the best, `[k, n]`; equal ones share their mean rank."""
    below = (scores[:, None] > scores[None]).sum(axis=1)
    equal = (scores[:, None] == scores[None]).sum(axis=1)
    return below + (equal + 1) / 2


def mean_rank(scores: Scores, weights: np.ndarray) -> np.ndarray:
    """The weighted mean over scorers of `ranks`, `[k]` from 1 to k."""
    return weighted_sum(ranks(scores), weights) / weights.sum()


def win_rate(scores: Scores, weights: np.ndarray) -> np.ndarray:
    """Syn-Pic: phi_i = C_i / (n (k - 1)), where C_i counts over n scorers the candidates that i beats; `[k]` in [0, 1].

    Paper: RankDPO, Karthik et al. 2024, https://arxiv.org/abs/2410.18013, algorithm 1. Nothing but each scorer's order
    counts, so their scales need no calibration; equal scores beat neither way. With weights, which the paper does not
    have, C_i and n are weighted sums.
    """
    beaten = (scores[:, None] > scores[None]).sum(axis=1)
    return weighted_sum(beaten, weights) / (weights.sum() * (len(scores) - 1))


def calibrated_win_rate(scores: Scores, weights: np.ndarray) -> np.ndarray:
    """CaPO: R_i = mean over the others j of sigmoid(w_s (r_is - r_js)), then the mean over scorers; `[k]` in [0, 1].

    Paper: CaPO, Lee et al. 2025, https://arxiv.org/abs/2502.02588. The sigmoid takes scores for Bradley-Terry logits:
    PickScore's and ImageReward's are; a bare cosine such as HPSv2's is one after a factor of 100, its weight here.
    Differences between labels say how sure the judges are.
    """
    logits = (scores[:, None] - scores[None]) * weights
    wins = (1 + np.tanh(logits / 2)) / 2  # the sigmoid, without overflow
    against_others = (wins.sum(axis=1) - 0.5) / (len(scores) - 1)  # 0.5: against itself
    return weighted_sum(against_others, np.full(scores.shape[1], 1 / scores.shape[1]))


def dominates(scores: Scores) -> np.ndarray:
    """Whether i is at least as good as j for every scorer and better for one, bool `[k, k]`."""
    above, other = scores[:, None], scores[None]
    return np.logical_and((above >= other).all(axis=-1), (above > other).any(axis=-1))


def pareto_fronts(scores: Scores) -> np.ndarray:
    """Each candidate's front, int `[k]`: 1 where no candidate dominates it, f + 1 where only fronts 1 to f do.

    Non-dominated sorting: Deb et al. 2002, NSGA-II, https://doi.org/10.1109/4235.996017, section III-A. Any increasing
    function of a scorer's scores, such as CaPO's calibration, gives the same fronts.
    """
    dominated = dominates(scores)
    fronts = np.zeros(len(scores), dtype=int)
    number = 0
    while not fronts.all():
        number += 1
        left = fronts == 0
        fronts[left & ~dominated[left].any(axis=0)] = number
    return fronts


def front_label(scores: Scores) -> np.ndarray:
    """The last front's candidates 1, those of the front above 2, and so on; candidates of one front tie, `[k]`."""
    fronts = pareto_fronts(scores)
    return (fronts.max() + 1.0) - fronts


def frontier_label(scores: Scores) -> np.ndarray:
    """CaPO's winners 1, its losers 0, all others 0.5, `[k]`.

    Paper: CaPO (see `calibrated_win_rate`), frontier-based pair selection. Winners are those that nothing dominates
    (the upper frontier), losers those that dominate nothing (the lower one); who is in both is neither.
    """
    dominated = dominates(scores)
    upper, lower = ~dominated.any(axis=0), ~dominated.any(axis=1)
    return (1 + upper.astype(float) - lower) / 2


@dataclass(frozen=True)
class Combination:
    """A way to one label: what it is, and whether scorers can be weighted in it."""

    label: Callable[[Scores, np.ndarray], np.ndarray]
    about: str
    weighted: bool = True


COMBINATIONS = {
    "sum": Combination(lambda scores, weights: weighted_sum(z_scores(scores), weights), "z-scores within the prompt"),
    "raw_sum": Combination(weighted_sum, "scores as they are"),
    "rank": Combination(mean_rank, "mean rank"),
    "win": Combination(win_rate, "share of the others that it beats (Syn-Pic)"),
    "calibrated": Combination(calibrated_win_rate, "chance to beat the others, of scores as logits (CaPO)"),
    "pareto": Combination(lambda scores, _: front_label(scores), "Pareto fronts", weighted=False),
    "frontier": Combination(lambda scores, _: frontier_label(scores), "upper against lower (CaPO)", weighted=False),
}
"""By the name that a user gives."""


def combine(scores: Scores, combination: str, weights: np.ndarray | None = None) -> np.ndarray:
    """One label for each candidate, float64 `[k]`: NaN for those that lack a scorer's score.

    Such a candidate is left out before the others are compared. The labels of the others are NaN too where fewer than
    two are left, for then there is nothing to compare.

    Args:
        scores: `[k, n]`; NaN where a scorer has no score.
        combination: a name in `COMBINATIONS`.
        weights: one positive number per scorer, `[n]`; None for 1 each.

    Raises:
        UserError: there is no such combination, it takes no weights, or a weight is not positive.
    """
    scores = np.asarray(scores, dtype=np.float64)
    require_combination(combination, weights)
    labels = np.full(len(scores), np.nan)
    whole = np.isfinite(scores).all(axis=1)
    if whole.sum() > 1:
        given = np.ones(scores.shape[1]) if weights is None else np.asarray(weights, dtype=np.float64)
        labels[whole] = COMBINATIONS[combination].label(scores[whole], given)
    return labels


def require_combination(name: str, weights: np.ndarray | None = None) -> None:
    """Raise UserError unless there is such a combination and it can take these weights."""
    if name not in COMBINATIONS:
        raise UserError(f"there is no combination {name!r}; known are {', '.join(COMBINATIONS)}")
    if weights is None:
        return
    if not COMBINATIONS[name].weighted:
        raise UserError(f"{name} compares scorer by scorer and takes no weights; leave them out, or choose another")
    if not all(np.isfinite(weight) and weight > 0 for weight in weights):
        raise UserError(f"a weight must be above 0, and these are {', '.join(f'{weight:g}' for weight in weights)}")


@dataclass(frozen=True)
class Ensemble:
    """Several scorers as one rater.

    Args:
        scorers: whose scores count, by name.
        combination: a name in `COMBINATIONS`.
        weights: by scorer; 1 where left out.

    Raises:
        UserError: there are no scorers or one comes twice, no such combination, or weights that it cannot take.
    """

    scorers: tuple[str, ...]
    combination: str = "win"
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.scorers:
            raise UserError("there are no scorers; name at least one")
        if len(set(self.scorers)) < len(self.scorers):
            raise UserError(f"a scorer is named twice: {', '.join(self.scorers)}; give it a weight instead")
        if stray := next((name for name in self.weights if name not in self.scorers), None):
            raise UserError(f"there is a weight for {stray}, which is not among the scorers {', '.join(self.scorers)}")
        require_combination(self.combination, self._weights())

    @property
    def rater(self) -> str:
        """What a group says of who labelled it, such as `win(2 pickscore, hpsv2.1)`."""
        parts = [f"{self.weights[name]:g} {name}" if name in self.weights else name for name in self.scorers]
        return f"{self.combination}({', '.join(parts)})"

    def labels(self, scores: Scores) -> np.ndarray:
        """One label per candidate `[k]` of scores `[k, n]` in the order of `scorers`; see `combine`."""
        return combine(scores, self.combination, self._weights())

    def _weights(self) -> np.ndarray | None:
        return np.array([self.weights.get(name, 1.0) for name in self.scorers]) if self.weights else None
