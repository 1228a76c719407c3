"""Direct preference optimisation with a sigmoid, and its two answers to noisy labels."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .contract import LossAndMetrics, check_positive, checked_errors
from .margin import margin, pair_metrics, preferred

Smoothing = Literal["conservative", "robust"]


def dpo(
    policy_errors: Tensor,
    reference_errors: Tensor | None,
    labels: Tensor,
    *,
    beta: float,
    label_smoothing: float = 0.0,
    smoothing: Smoothing = "conservative",
) -> LossAndMetrics:
    """Diffusion-DPO: mean of -log σ(z), z = kappa * m, kappa = beta / 2.

        m = (ref_w - pol_w) - (ref_l - pol_l)

    DPO: Rafailov et al. 2023, arXiv 2305.18290. On denoising errors, with T folded into beta: Wallace et al. 2023,
    arXiv 2311.12908, eq. 14; the half is the official code's.

    `label_smoothing` e is the probability that a label is flipped, 0 <= e < 0.5; `smoothing` says what to do with it:
    see `conservative` and `robust`. A tied group is no win for either side: its target probability is 1/2, so it adds
    -1/2 log σ(z) - 1/2 log σ(-z), which pulls m to 0, whatever the smoothing.

    policy_errors, reference_errors, labels: [B, k]. Returns the loss and `pair_metrics` with gradient_factor = mean
    σ(-z), 1/2 at policy = reference. Raises ValueError for bad shapes, a missing reference, beta or e out of range.
    """
    check_positive("beta", beta)
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing is {label_smoothing}; expected a flip probability of at least 0, below 0.5")
    if smoothing not in ("conservative", "robust"):
        raise ValueError(f"smoothing is {smoothing!r}; expected 'conservative' or 'robust'")
    policy = checked_errors("policy_errors", policy_errors, labels, candidates=2)
    reference = checked_errors("reference_errors", reference_errors, labels, candidates=2)

    z = (beta / 2) * margin(policy, reference)
    smoothed = conservative if smoothing == "conservative" else robust
    loss = torch.where(preferred(labels), smoothed(z, label_smoothing), conservative(z, 0.5)).mean()
    return loss, pair_metrics(policy, reference, labels, gradient_factor=torch.sigmoid(-z))


def conservative(z: Tensor, e: float) -> Tensor:
    """cDPO: -(1 - e) log σ(z) - e log σ(-z), elementwise.

    Cross-entropy with the target probability 1 - e instead of 1: the pull ends at σ(z) = 1 - e, so no pair is pushed
    without bound. Mitchell 2023, "A note on DPO with noisy preferences & relationship to IPO".
    """
    return -(1 - e) * logsigmoid(z) - e * logsigmoid(-z)


def robust(z: Tensor, e: float) -> Tensor:
    """rDPO: (-(1 - e) log σ(z) + e log σ(-z)) / (1 - 2e), elementwise; may be negative.

    Unbiased: if labels are flipped with probability e, its expectation is the loss -log σ(z) of the clean labels.
    Chowdhury, Kini and Natarajan 2024, arXiv 2403.00409.
    """
    return (-(1 - e) * logsigmoid(z) + e * logsigmoid(-z)) / (1 - 2 * e)
