"""DPO held to its winners: the safeguard against a margin that grows because both sides get worse."""

from __future__ import annotations

import torch
from torch import Tensor

from .contract import LossAndMetrics, check_not_negative, checked_errors, scalar
from .dpo import Smoothing, dpo
from .margin import preferred


def anchored_dpo(
    policy_errors: Tensor,
    reference_errors: Tensor | None,
    labels: Tensor,
    *,
    beta: float,
    anchor: float = 1.0,
    label_smoothing: float = 0.0,
    smoothing: Smoothing = "conservative",
) -> LossAndMetrics:
    """DPO + anchor * mean pol_w: the winner's own denoising error is minimised too.

        loss = mean[-log σ(beta/2 * m)] + λ mean[pol_w],  λ = `anchor`

    TangoFlux's CRPO: Hung et al. 2024, arXiv 2412.21037, with λ = 1 and beta = 2000. The anchor is on the error as it
    comes, so λ = 1 means what it does in the paper for errors that are means over elements.

    A tied group has no winner and adds 0 to the anchor's mean over the B groups (not its first candidate).
    Shapes, smoothing, ties of the DPO part, metrics and errors as in `dpo`; two metrics more, `preference_loss` and
    `anchor_loss` (before λ), the two terms of the sum. Raises ValueError also for anchor < 0.
    """
    check_not_negative("anchor", anchor)
    preference_loss, metrics = dpo(
        policy_errors, reference_errors, labels, beta=beta, label_smoothing=label_smoothing, smoothing=smoothing
    )
    winner_error = checked_errors("policy_errors", policy_errors, labels, candidates=2)[:, 0]
    anchor_loss = torch.where(preferred(labels), winner_error, 0.0).mean()
    metrics |= {"preference_loss": scalar(preference_loss), "anchor_loss": scalar(anchor_loss)}
    return preference_loss + anchor * anchor_loss, metrics
