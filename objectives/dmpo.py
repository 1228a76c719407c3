"""Divergence minimisation: the reverse KL to almost certain winners, which stops pulling when it gets there."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .contract import LossAndMetrics, check_positive, checked_errors
from .margin import margin, pair_metrics, preferred


def dmpo(
    policy_errors: Tensor, reference_errors: Tensor | None, labels: Tensor, *, beta: float, alpha: float = 0.01
) -> LossAndMetrics:
    """DMPO: mean of KL(Bernoulli(p) || Bernoulli(q)), p = σ(z), z = kappa m, kappa = beta / 2, q = 1 - alpha.

        m = (ref_w - pol_w) - (ref_l - pol_l)

    Li et al. 2025, arXiv 2507.07510, with alpha = 0.01 and beta = 2000 (SD1.5) or 6000 (SDXL) of the published runs.
    1.6145 at policy = reference. The slope in z is p (1 - p) (z - ln(q / alpha)): none at p = q, beyond which it pushes
    back, and hardly any on a pair that the policy gets badly wrong, where DPO pulls hardest. A tied group's q is 1/2.

    policy_errors, reference_errors, labels: [B, k]. Returns the loss and `pair_metrics` with gradient_factor = mean of
    the slope's size, ln(q / alpha) / 4 at policy = reference (a tied group 0).
    Raises ValueError for bad shapes, a missing reference, beta <= 0 or alpha outside (0, 0.5).
    """
    check_positive("beta", beta)
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha is {alpha}; expected the loser's target probability, above 0 and below 0.5")
    policy = checked_errors("policy_errors", policy_errors, labels, candidates=2)
    reference = checked_errors("reference_errors", reference_errors, labels, candidates=2)

    z = (beta / 2) * margin(policy, reference)
    wins = preferred(labels)
    loss = torch.where(wins, _divergence(z, alpha), _divergence(z, 0.5)).mean()
    distance = z - wins.to(z.dtype) * math.log((1 - alpha) / alpha)
    pull = torch.sigmoid(z) * torch.sigmoid(-z) * distance.abs()
    return loss, pair_metrics(policy, reference, labels, gradient_factor=pull)


def _divergence(z: Tensor, alpha: float) -> Tensor:
    """KL(Bernoulli(σ(z)) || Bernoulli(1 - alpha)), elementwise, from logarithms that keep their digits."""
    wins = torch.sigmoid(z) * (logsigmoid(z) - math.log1p(-alpha))
    return wins + torch.sigmoid(-z) * (logsigmoid(-z) - math.log(alpha))
