"""Margin-aware preference optimisation: no reference, the winner's own error beside a bounded preference term."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .contract import LossAndMetrics, check_positive, checked_errors, scalar
from .margin import preferred

# Below this the quotient u / (e^u - 1) loses digits, most of all in its gradient, and the series to u^6 is exact.
_SMALL = 0.1


def mapo(
    policy_errors: Tensor,
    reference_errors: Tensor | None,
    labels: Tensor,
    *,
    beta: float = 0.1,
    snr: float = 0.5,
    steps: float = 1000.0,
) -> LossAndMetrics:
    """MaPO: mean[pol_w] - beta mean[log σ(z)], z = T (φ(pol_w) - φ(pol_l)), φ(L) = sL / (e^(sL) - 1).

    Hong et al. 2024, arXiv 2406.06424; s = `snr`, T = `steps` (the training timesteps), and the defaults are the
    official code's. φ falls from 1 with slope -s/2 at L = 0, so z is about T s/2 = 250 times pol_l - pol_w: that is the
    temperature; `beta` only weighs the preference against the winner's error. The errors are means over elements, 0 or
    above. The constants were found for the error in the noise: a velocity's has another scale.

    A tied group adds 0 to both means over the B groups: it has no winner to imitate, and z = 0 would pull together the
    errors of two different pictures, which differ by how hard the pictures are. (DPO's ties pull to the reference.)

    policy_errors, labels: [B, k]; `reference_errors` is never looked at, pass None. Metrics: those of `pair_metrics`
    that need no reference, with margin = mean pol_l - pol_w (positive also because a loser is hard) and gradient_factor
    = mean σ(-z), a tie counting 0; and preference_loss (before beta) and anchor_loss, the two terms of the sum.
    Raises ValueError for bad shapes or a setting <= 0.
    """
    for name, value in (("beta", beta), ("snr", snr), ("steps", steps)):
        check_positive(name, value)
    policy = checked_errors("policy_errors", policy_errors, labels, candidates=2)
    winner, loser = policy[:, 0], policy[:, -1]
    wins = preferred(labels)

    z = steps * (_phi(snr * winner) - _phi(snr * loser))
    preference_loss = (-logsigmoid(z) * wins).mean()
    anchor_loss = (winner * wins).mean()

    margin = (loser - winner).detach()
    metrics = {
        "winner_error": scalar(winner),
        "loser_error": scalar(loser),
        "margin": scalar(margin),
        "accuracy": scalar((1 + torch.sign(margin)) / 2, where=wins),
        "accuracy_count": wins.sum().float(),
        "gradient_factor": scalar(torch.sigmoid(-z) * wins),
        "preference_loss": scalar(preference_loss),
        "anchor_loss": scalar(anchor_loss),
    }
    return anchor_loss + beta * preference_loss, metrics


def _phi(u: Tensor) -> Tensor:
    """u / (e^u - 1) for u >= 0, with finite gradients everywhere: -1/2 at 0, 0 at infinity."""
    small = u.abs() < _SMALL
    square = torch.where(small, u, 0.0).square()
    series = 1 - u / 2 + square / 12 * (1 - square / 60 * (1 - square / 42))
    far = torch.where(small, 1.0, u)  # the branch that is not taken must not send a NaN back
    quotient = far * torch.exp(-far) / -torch.expm1(-far)  # e^-u cannot overflow
    return torch.where(small, series, quotient)
