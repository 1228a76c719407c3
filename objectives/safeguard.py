"""Diffusion-SDPO's safeguard: the loser pushes only as hard as the winner does not pay for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .contract import LossAndMetrics, Objective, checked_errors, scalar
from .margin import preferred


def safeguarded(objective: Objective, mu: float) -> Objective:
    """`objective` with the gradient of the losers' errors, not their value, multiplied by λ in [0, 1].

        λ = clamp((1 - mu) sum_b |g_w|^2 / sum_b <g_w, g_l>, 0, 1) if sum_b <g_w, g_l> > 0 else 1, detached

    Fu et al. 2025, arXiv 2511.03317. A step down pol_w - λ pol_l leaves the winner's error where it is, to first order,
    if λ <g_w, g_l> <= |g_w|^2; g are the gradients of the two *mean errors* with respect to the network's outputs, so
    their products are sums of products of residuals, times the square of an error's weight. As in the official code
    there is one λ for a micro-batch, on each process its own, and it leaves out that the objective weighs the pairs
    (DPO by σ(-z)); hence `mu`, the slack.
    Published: 0.9 for DPO and DMPO and 0.2 for DSPO on SD1.5, 0.6 on SDXL.

    `objective` is any that reads the first and the last column. The returned one takes `overlap` [B, 2] besides the
    objective's own arguments: |g_w|^2 and <g_w, g_l> up to one factor, see `diffusion.likelihood.residual_overlap`.
    Tied groups have no winner to guard: they take no part in λ and keep their gradients.
    Metrics: the objective's and `safeguard` = λ. Raises ValueError for mu outside [0, 1] or a bad shape of `overlap`.
    """
    if not 0 <= mu <= 1:
        raise ValueError(f"mu is {mu}; expected the safeguard's slack, from 0 to 1")

    def guarded(
        policy_errors: Tensor, reference_errors: Tensor | None, labels: Tensor, *, overlap: Tensor, **settings: Any
    ) -> LossAndMetrics:
        policy = checked_errors("policy_errors", policy_errors, labels, candidates=2)
        if tuple(overlap.shape) != (len(labels), 2):
            raise ValueError(f"overlap has shape {tuple(overlap.shape)}; expected [B, 2] = ({len(labels)}, 2)")
        wins = preferred(labels)
        scale = _scale(overlap.detach().to(policy.dtype), wins, mu)
        loser = policy[:, -1:]
        # Exactly the loser's value: the difference is 0.
        scaled = loser.detach() + torch.where(wins, scale, 1.0)[:, None] * (loser - loser.detach())
        loss, metrics = objective(torch.cat([policy[:, :-1], scaled], dim=1), reference_errors, labels, **settings)
        return loss, metrics | {"safeguard": scalar(scale)}

    return guarded


def _scale(overlap: Tensor, wins: Tensor, mu: float) -> Tensor:
    """λ [], detached."""
    own, shared = torch.where(wins[:, None], overlap, 0.0).sum(0)
    against = shared > 0
    return torch.where(against, ((1 - mu) * own / torch.where(against, shared, 1.0)).clamp(0, 1), 1.0)
