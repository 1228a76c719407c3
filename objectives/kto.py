"""Kahneman-Tversky optimisation: candidates that are good or bad by themselves, no pairs needed."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import relu

from .contract import LossAndMetrics, check_not_negative, check_positive, checked_errors, scalar
from .processes import mean_over_processes

# A deviation from the group's mean label below this share of the group's spread is rounding, not an opinion.
_ROUNDING = 1e-6


def kto(
    policy_errors: Tensor,
    reference_errors: Tensor | None,
    labels: Tensor,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> LossAndMetrics:
    """KTO with the sigmoid utility: mean over the candidates of w_y (1 - σ(y beta (g - z0))).

        g  = ref - pol                      per candidate: positive = the policy explains it better
        z0 = max(0, mean g), detached       the reference point; the mean is over the candidates of all processes
        y  = +1 desirable, -1 undesirable, 0 neither (`desirability`)
        w  = `desirable_weight`, `undesirable_weight`, 0

    KTO: Ethayarajh et al. 2024, arXiv 2402.01306. On denoising errors: Diffusion-KTO, Li et al. 2024, arXiv
    2404.04465, with beta = 1000 and both weights 1. Its beta multiplies g itself: there is no half.

    A candidate with y = 0 has the weight 0 but still counts in the mean (and in z0): so the loss of a batch is the mean
    of the losses of its equal parts on several processes. With torch.distributed initialised every process must
    call this the same number of times with gradient, since z0 is exchanged; without gradient each has its own.

    policy_errors, reference_errors, labels: [B, k], k >= 1. Returns the loss and the metrics listed in `_metrics`.
    Raises ValueError for bad shapes, a missing reference, beta <= 0, a negative weight or no weight above 0.
    """
    check_positive("beta", beta)
    check_not_negative("desirable_weight", desirable_weight)
    check_not_negative("undesirable_weight", undesirable_weight)
    check_positive("the larger of desirable_weight and undesirable_weight", max(desirable_weight, undesirable_weight))
    policy = checked_errors("policy_errors", policy_errors, labels, candidates=1)
    reference = checked_errors("reference_errors", reference_errors, labels, candidates=1)

    g = reference - policy
    y = desirability(labels).to(g.dtype)
    w = desirable_weight * relu(y) + undesirable_weight * relu(-y)
    z0 = mean_over_processes(g).clamp(min=0)
    regret = torch.sigmoid(-y * beta * (g - z0))  # 1 - σ(u), written as σ(-u), which keeps its digits when small
    return (w * regret).mean(), _metrics(policy, g, y, z0, pull=regret * (1 - regret))


def desirability(labels: Tensor) -> Tensor:
    """y [B, k] in {-1, 0, 1}: above, at or below the group's mean label; for k = 1 above, at or below 0.5.

    At the threshold a label says neither: a tied group and the middle of an even ranking are 0, like a lone 0.5.
    """
    labels = labels.to(torch.promote_types(labels.dtype, torch.float32))
    if labels.shape[1] == 1:
        return torch.sign(labels - 0.5)
    # Taken from the first label, equal labels differ by exactly 0, and so does their mean: a tie stays a tie.
    relative = labels - labels[:, :1]
    deviation = relative - relative.mean(dim=1, keepdim=True)
    spread = relative.abs().amax(dim=1, keepdim=True)
    return torch.where(deviation.abs() <= _ROUNDING * spread, 0.0, torch.sign(deviation))


def _metrics(policy: Tensor, g: Tensor, y: Tensor, z0: Tensor, *, pull: Tensor) -> dict[str, Tensor]:
    """The keys of `pair_metrics`, with desirable candidates for winners and undesirable ones for losers, and z0.

    winner_error, loser_error, winner_gain, loser_gain, margin: means over one class, NaN where the batch has none.
    accuracy: fraction of the `accuracy_count` labelled candidates with y (g - z0) > 0, zeros counting half.
    gradient_factor: mean σ(1 - σ) over them; 1/4 at policy = reference, near 0 = saturated.
    desirable_fraction: share of them that is desirable. reference_point: z0.
    """
    good, bad, labelled = y > 0, y < 0, y != 0
    winner_gain, loser_gain = scalar(g, good), scalar(g, bad)
    correct = (1 + torch.sign(y * (g - z0))) / 2
    return {
        "winner_error": scalar(policy, good),
        "loser_error": scalar(policy, bad),
        "winner_gain": winner_gain,
        "loser_gain": loser_gain,
        "margin": winner_gain - loser_gain,
        "accuracy": scalar(correct, labelled),
        "accuracy_count": labelled.sum().float(),
        "gradient_factor": scalar(pull, labelled),
        "desirable_fraction": scalar(good.float(), labelled),
        "reference_point": z0.float(),
    }
