"""DPO whose pull is as strong as the winner is clear: soft labels from the difference of two scores."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .contract import LossAndMetrics, check_positive, checked_errors, scalar
from .margin import margin, pair_metrics, preferred


def soft_dpo(
    policy_errors: Tensor,
    reference_errors: Tensor | None,
    labels: Tensor,
    *,
    beta: float,
    label_scale: float,
    gamma: float = 10.0,
    decay: float = 0.0,
    progress: Tensor | None = None,
) -> LossAndMetrics:
    """Mean of -log σ(z), z = kappa gamma (2p - 1) m, p = σ((label_w - label_l) / label_scale), kappa = beta / 2.

        m = (ref_w - pol_w) - (ref_l - pol_l)

    SmPO: Lu et al. 2025, arXiv 2506.02698, with gamma = 10 on PickScore; beta 2000 (SD1.5), 5000 (SDXL). It takes the
    scores min-max normalised by constants, which is a `label_scale` of 0.16658 for labels that are cosines and of 16.66
    for PickScores as they are mostly given, about 100 times the cosine. PNAPO's beta (2 σ(δr) - 1) is gamma = 1 and
    label_scale = 1 (arXiv 2605.09433; beta 5000 for SD3-M, 2000 for Flux). There is no default scale: it belongs to the
    labels' unit.

    `decay` d lets beta fall along a cosine by that share until training ends, beta (1 - d (1 - cos(π progress)) / 2);
    PNAPO's d is 0.5. `progress` [B] in [0, 1], how much of the training is done, is read for d > 0 only.

    A tied group has p = 1/2, hence z = 0: the constant ln 2.

    policy_errors, reference_errors, labels: [B, k]. Returns the loss and `pair_metrics` with gradient_factor = mean
    σ(-z), 1/2 at policy = reference, and `label_weight`, the mean of what multiplies kappa m. Raises ValueError for bad
    shapes, a missing reference or (for d > 0) progress, beta, gamma or label_scale <= 0, d outside [0, 1).
    """
    for name, value in (("beta", beta), ("gamma", gamma), ("label_scale", label_scale)):
        check_positive(name, value)
    if not 0 <= decay < 1:
        raise ValueError(f"decay is {decay}; expected the share of beta that is lost in the end, 0 or above, below 1")
    policy = checked_errors("policy_errors", policy_errors, labels, candidates=2)
    reference = checked_errors("reference_errors", reference_errors, labels, candidates=2)

    scores = labels.to(policy.dtype)
    apart = torch.where(preferred(labels), scores[:, 0] - scores[:, -1], 0.0)
    weight = gamma * torch.tanh(apart / (2 * label_scale))  # 2 σ(x) - 1 = tanh(x / 2)
    if decay > 0:
        weight = weight * _cosine(decay, progress, groups=len(labels)).to(weight.dtype)
    z = (beta / 2) * weight * margin(policy, reference)
    metrics = pair_metrics(policy, reference, labels, gradient_factor=torch.sigmoid(-z))
    return -logsigmoid(z).mean(), metrics | {"label_weight": scalar(weight)}


def _cosine(decay: float, progress: Tensor | None, groups: int) -> Tensor:
    """What is left of beta [B]: 1 at progress 0, 1 - decay at 1."""
    if progress is None:
        raise ValueError(f"decay is {decay} and progress is None: pass the share of the training that is done, [B]")
    if tuple(progress.shape) != (groups,):
        raise ValueError(f"progress has shape {tuple(progress.shape)}; expected [B] = ({groups},)")
    return 1 - decay * (1 - torch.cos(math.pi * progress)) / 2
