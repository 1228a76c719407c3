"""DPO on density ratios that are clipped near 1: sampled transitions instead of denoising errors."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .contract import LossAndMetrics, check_positive, checked_errors, scalar
from .dpo import conservative
from .margin import pair_metrics, preferred

Sides = Literal["both", "improved"]


def clipped_dpo(
    policy_errors: Tensor,
    reference_errors: Tensor | None,
    labels: Tensor,
    *,
    beta: float = 10.0,
    clip: float = 0.1,
    sides: Sides = "both",
) -> LossAndMetrics:
    """Mean of -log σ(beta (ln r_w - ln r_l)), r = clamp(e^(ref - pol), 1 - clip, 1 + clip).

    The errors are -log p of a sampled transition, a mean over elements, so that ref - pol is the log of the density
    ratio r. D3PO: Yang et al. 2023, arXiv 2311.13231, beta 0.1. SPO: Liang et al. 2024, arXiv 2406.04314, beta 10. Both
    clip at 0.1. There is no half. ln 2 at policy = reference.

    `sides` says where a ratio is clipped:
        "both"      as published: also a winner below 1 - clip, which then has no gradient to recover by
        "improved"  only where the ratio has moved the right way, the winner's above, the loser's below 1

    A tied group's target probability is 1/2 as in `dpo`; no way is the right one for it, so "improved" never clips it.

    policy_errors, reference_errors, labels: [B, k]. Returns the loss and `pair_metrics` (of the unclipped) with
    gradient_factor = mean of σ(-z), once for the winner and once for the loser, 0 where clipped; and `clip_fraction`,
    the share of them that is. Raises ValueError for bad shapes, a missing reference, beta <= 0, clip outside (0, 1) or
    an unknown `sides`.
    """
    check_positive("beta", beta)
    if not 0 < clip < 1:
        raise ValueError(f"clip is {clip}; expected a deviation of the ratio from 1, above 0 and below 1")
    if sides not in ("both", "improved"):
        raise ValueError(f"sides is {sides!r}; expected 'both' or 'improved'")
    policy = checked_errors("policy_errors", policy_errors, labels, candidates=2)
    reference = checked_errors("reference_errors", reference_errors, labels, candidates=2)

    wins = preferred(labels)
    log_ratios = (reference - policy)[:, [0, -1]]  # [B, 2]
    low, high = math.log1p(-clip), math.log1p(clip)  # of the logarithm: an exponential could overflow
    if sides == "both":
        clipped = log_ratios.clamp(low, high)
    else:
        improved = torch.stack([log_ratios[:, 0].clamp(max=high), log_ratios[:, 1].clamp(min=low)], dim=1)
        clipped = torch.where(wins[:, None], improved, log_ratios)
    z = beta * (clipped[:, 0] - clipped[:, 1])
    loss = torch.where(wins, -logsigmoid(z), conservative(z, 0.5)).mean()

    outside = (clipped != log_ratios).to(z.dtype).mean(dim=1)
    metrics = pair_metrics(policy, reference, labels, gradient_factor=torch.sigmoid(-z) * (1 - outside))
    return loss, metrics | {"clip_fraction": scalar(outside)}
