"""Losses of reward models: pure functions of the scores and labels of preference groups.

    scores  [B, k]  one row a group, one number a candidate
    labels  [B, k]  higher is preferred, equal is a tie, NaN says that the group has no candidate at this place
    loss    [B]     for each group the mean over its pairs that count; 0 where none does

Every loss compares pairs: a group of two is one pair, a ranking of k all its k (k - 1) / 2. Below, Δ is the score of a
pair's first candidate minus that of its second, and σ the logistic function. How groups weigh in a step is the business
of `step_weights`: in a group with many candidates a pair would else count less than in one with two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Weighting = Literal["pairs", "prompts", "sum"]


class Pairs(NamedTuple):
    """Every pair of candidates of each group, P = k (k - 1) / 2 of them.

    difference  [B, P]  of the scores, first minus second
    outcome     [B, P]  1 where the first is preferred, -1 where the second is, 0 for a tie
    there       [B, P]  bool, whether the group has both candidates
    """

    difference: Tensor
    outcome: Tensor
    there: Tensor

    @property
    def decided(self) -> Tensor:
        """Bool `[B, P]`: both are there and one is preferred."""
        return self.there & (self.outcome != 0)

    @property
    def advantage(self) -> Tensor:
        """Score of the preferred minus that of the other, `[B, P]`; for a tie 0."""
        return self.difference * self.outcome


def pairs_of(scores: Tensor, labels: Tensor) -> Pairs:
    """The pairs of each group, in at least float32.

    Raises:
        ValueError: scores and labels are not both `[B, k]` with k of 2 or more.
    """
    if scores.shape != labels.shape or scores.ndim != 2 or scores.shape[1] < 2:
        raise ValueError(
            f"got scores {tuple(scores.shape)} and labels {tuple(labels.shape)}; expected both [B, k], k of 2 or more"
        )
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    first, second = torch.triu_indices(scores.shape[1], scores.shape[1], 1, device=scores.device)
    present = ~labels.isnan()
    labels = labels.nan_to_num()
    outcome = (labels[:, first] - labels[:, second]).sign().to(scores.dtype)
    return Pairs(scores[:, first] - scores[:, second], outcome, present[:, first] & present[:, second])


def pickscore_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """KL(y ‖ p) with p = softmax of a pair's two scores and y = (1, 0), (0, 1), or (½, ½) for a tie.

    For a decided pair -log σ(Δ of the preferred); for a tie -½ log σ(Δ) - ½ log σ(-Δ) - log 2, which is 0 where the
    scores are equal. Scores are scaled cosines. Kirstain et al. 2023, arXiv 2305.01569; the authors' criterion.
    """
    pairs = pairs_of(scores, labels)
    tied = (pairs.outcome == 0).to(pairs.outcome.dtype)
    return _mean(_cross_entropy(pairs) - math.log(2) * tied, pairs.there)


def hpsv2_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """-Σ y log p with p and y as in `pickscore_loss`: cross entropy, whose least value for a tie is log 2.

    The authors sum over the batch, which `step_weights` does. Wu et al. 2023, arXiv 2306.09341; the authors' loss.
    """
    pairs = pairs_of(scores, labels)
    return _mean(_cross_entropy(pairs), pairs.there)


def imagereward_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """-log σ(r of the preferred - r of the other) over all ordered pairs; ties are skipped.

    Xu et al. 2023, arXiv 2304.05977, equation 1 (Bradley and Terry's model).
    """
    pairs = pairs_of(scores, labels)
    return _mean(-F.logsigmoid(pairs.advantage), pairs.decided)


def btt_loss(scores: Tensor, labels: Tensor, k: float = 5.0) -> Tensor:
    """Bradley and Terry's model with ties, after Rao and Kupper 1967.

    With θ = k: P(first wins) = σ(Δ - ln k), P(second wins) = σ(-Δ - ln k), and P(tie) = (k² - 1) σ(Δ - ln k)
    σ(-Δ - ln k); the three add up to 1. The loss is -log of what was observed. VideoReward's with k = 5: Liu et al.
    2025, arXiv 2501.13918.

    Raises:
        ValueError: k is not above 1, where ties have no probability.
    """
    if k <= 1:
        raise ValueError(f"k is {k}; expected a number above 1")
    pairs = pairs_of(scores, labels)
    first, second = (F.logsigmoid(sign * pairs.difference - math.log(k)) for sign in (1, -1))
    won = torch.where(pairs.outcome > 0, first, second)
    tied = first + second + math.log(k**2 - 1)
    return _mean(-torch.where(pairs.outcome == 0, tied, won), pairs.there)


def uncertainty_loss(means: Tensor, log_sigmas: Tensor, labels: Tensor, samples: int = 1000) -> Tensor:
    """-E log σ(z) with z ~ N(Δμ, σ_a² + σ_b²), Δμ of the preferred minus the other; ties are skipped.

    The expectation is the mean over `samples` quantiles of z that are equally likely, through which gradients reach
    both numbers. HPSv3's: Ma et al. 2025, arXiv 2508.03789, where they are as many random draws; quantiles make the
    loss of a step the same however it is cut, and its gradient free of their noise.

    Args:
        means, log_sigmas: `[B, k]`, the two numbers that the model gives for a candidate; σ = exp(log_sigma).
    """
    pairs = pairs_of(means, labels)
    first, second = torch.triu_indices(means.shape[1], means.shape[1], 1, device=means.device)
    variances = (2 * log_sigmas.to(pairs.difference.dtype)).exp()
    spread = (variances[:, first] + variances[:, second]).sqrt()
    like = pairs.difference
    shares = (torch.arange(samples, device=like.device, dtype=like.dtype) + 0.5) / samples
    z = pairs.advantage + spread * torch.special.ndtri(shares)[:, None, None]
    return _mean(-F.logsigmoid(z).mean(dim=0), pairs.decided)


@dataclass(frozen=True)
class PairLoss:
    """A loss by name.

    function   of scores and labels; of means, log_sigmas and labels where `spread`
    weighting  how groups weigh in a step
    uses_ties  whether a group of ties teaches it anything
    spread     whether it needs a network that gives two numbers
    """

    function: Callable[..., Tensor]
    weighting: Weighting
    uses_ties: bool = True
    spread: bool = False


LOSSES: dict[str, PairLoss] = {
    "pickscore": PairLoss(pickscore_loss, "prompts"),
    "hpsv2": PairLoss(hpsv2_loss, "sum"),
    "imagereward": PairLoss(imagereward_loss, "pairs", uses_ties=False),
    "btt": PairLoss(btt_loss, "pairs"),
    "uncertainty": PairLoss(uncertainty_loss, "pairs", uses_ties=False, spread=True),
}


def step_weights(weighting: Weighting, prompt_counts: Sequence[int], pair_counts: Sequence[int]) -> list[float]:
    """The weight of each of a step's B groups; the step's loss is the mean over groups of weight * loss.

    pairs    so that every pair of the step counts the same (ImageReward, VideoReward)
    prompts  1 / (number of training groups with the group's prompt), made to add up to 1 over the step (PickScore)
    sum      B each, so that the loss is a sum, and its gradient grows with the batch (HPSv2)

    Args:
        prompt_counts: for each group, how many training groups have its prompt.
        pair_counts: for each group, how many pairs count in its loss; not all 0.
    """
    size = len(pair_counts)
    if weighting == "sum":
        return [float(size)] * size
    shares = [1 / count for count in prompt_counts] if weighting == "prompts" else [float(n) for n in pair_counts]
    total = math.fsum(shares)
    return [size * share / total for share in shares]


def _cross_entropy(pairs: Pairs) -> Tensor:
    """-Σ y log p of each pair, `[B, P]`; a tie's y is ½ and ½."""
    wins = (1 + pairs.outcome) / 2
    return -wins * F.logsigmoid(pairs.difference) - (1 - wins) * F.logsigmoid(-pairs.difference)


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """The mean over the pairs `where`, `[B]`; 0 where there are none."""
    return torch.where(where, values, 0.0).sum(dim=1) / where.sum(dim=1).clamp(min=1)
