"""Calibrated preference optimisation: the difference of implicit rewards is to equal that of calibrated ones."""

from __future__ import annotations

import torch
from torch import Tensor

from .contract import LossAndMetrics, check_positive, checked_errors
from .margin import margin, pair_metrics, preferred


def capo(policy_errors: Tensor, reference_errors: Tensor | None, labels: Tensor, *, beta: float) -> LossAndMetrics:
    """CaPO: mean of ((R_w - R_l) - beta m)^2, m = (ref_w - pol_w) - (ref_l - pol_l), R = `labels`.

    Lee et al. 2025, arXiv 2502.02588. R is the calibrated reward in [0, 1], a candidate's expected win rate against the
    reference model's pictures of the same prompt; other labels need another beta. The margin to reach is
    (R_w - R_l) / beta: like `ipo`'s, but as wide as the rewards are apart. No code is public and we know of no
    published beta; a margin of 1e-3 at R_w - R_l = 1 takes 1000. A tied group's target is 0.

    policy_errors, reference_errors, labels: [B, k]. Returns the loss and `pair_metrics` with gradient_factor = mean
    |R_w - R_l - beta m|, the distance that is left; the mean difference of rewards at policy = reference.
    Raises ValueError for bad shapes, a missing reference or beta <= 0.
    """
    check_positive("beta", beta)
    policy = checked_errors("policy_errors", policy_errors, labels, candidates=2)
    reference = checked_errors("reference_errors", reference_errors, labels, candidates=2)

    rewards = labels.to(policy.dtype)
    target = torch.where(preferred(labels), rewards[:, 0] - rewards[:, -1], 0.0)
    distance = target - beta * margin(policy, reference)
    return distance.square().mean(), pair_metrics(policy, reference, labels, gradient_factor=distance.abs())
