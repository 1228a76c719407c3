"""SePPO: DPO against a picture of the reference's own, pulled up instead of pushed down where it may be good."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .contract import LossAndMetrics, check_positive, checked_errors, scalar
from .margin import pair_metrics


def seppo(policy_errors: Tensor, reference_errors: Tensor | None, labels: Tensor, *, beta: float) -> LossAndMetrics:
    """Mean of -log σ(kappa (g_w - s g_r)), g = reference error - policy error, kappa = beta / 2.

    w is a chosen picture, the first column, and r one that the reference has drawn, the last. s is 1, which is DPO,
    but -1 where the reference explains the chosen picture better than the policy does, g_w < 0: what such a reference
    draws is rather good than bad, and both pictures are learned from (the paper's anchor-based adaptive flipper). No
    gradient flows through s.

    Zhang et al. 2024, arXiv 2410.05255.

    policy_errors, reference_errors, labels: [B, k >= 2]; labels say nothing beyond the order. Returns the loss and
    `pair_metrics` with gradient_factor = mean σ(-z), 1/2 at policy = reference, and `flipped`, the share of groups with
    s = -1. Raises ValueError for bad shapes, a missing reference, or beta out of range.
    """
    check_positive("beta", beta)
    policy = checked_errors("policy_errors", policy_errors, labels, candidates=2)
    reference = checked_errors("reference_errors", reference_errors, labels, candidates=2)
    gain = reference - policy
    flipped = gain.detach()[:, 0] < 0
    z = (beta / 2) * (gain[:, 0] + torch.where(flipped, 1.0, -1.0) * gain[:, -1])
    metrics = pair_metrics(policy, reference, labels, gradient_factor=torch.sigmoid(-z))
    return -logsigmoid(z).mean(), {**metrics, "flipped": scalar(flipped.float())}
