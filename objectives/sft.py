"""Plain fine-tuning on the winners: what a preference method must beat, and no preference in it."""

from __future__ import annotations

import torch
from torch import Tensor

from .contract import LossAndMetrics, checked_errors, scalar
from .margin import preferred


def sft(policy_errors: Tensor, reference_errors: Tensor | None, labels: Tensor) -> LossAndMetrics:
    """The mean of the first candidates' errors, mean pol_w.

    A tied group's first candidate is trained on as well: nothing is said of the others. The reference is not read.

    policy_errors, labels: [B, k], k >= 1. Returns the loss and the metrics winner_error (mean of the first column),
    accuracy_count (groups that are no ties) and gradient_factor, which is always 1; for k > 1 also loser_error (mean of
    the last column), margin (loser minus winner error) and accuracy (share of the groups that are no ties whose winner
    has the lower error, equal ones counting half).
    Raises ValueError for bad shapes.
    """
    policy = checked_errors("policy_errors", policy_errors, labels, candidates=1)
    winner, loser, wins = policy[:, 0], policy[:, -1], preferred(labels)
    metrics = {
        "winner_error": scalar(winner),
        "accuracy_count": wins.sum().float(),
        "gradient_factor": scalar(torch.ones_like(winner)),
    }
    if policy.shape[1] > 1:
        metrics |= {
            "loser_error": scalar(loser),
            "margin": scalar(loser - winner),
            "accuracy": scalar((1 + torch.sign(loser - winner)) / 2, where=wins),
        }
    return winner.mean(), metrics
