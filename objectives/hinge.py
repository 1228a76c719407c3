"""The hinge on the margin: groups that are right by far enough are left alone."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import relu

from .contract import LossAndMetrics, check_positive, checked_errors
from .margin import margin, pair_metrics, preferred


def hinge(policy_errors: Tensor, reference_errors: Tensor | None, labels: Tensor, *, beta: float) -> LossAndMetrics:
    """Hinge: mean of max(0, 1 - z), z = kappa * m, kappa = beta / 2; a tied group counts as 0.

        m = (ref_w - pol_w) - (ref_l - pol_l)

    SLiC-HF's loss (Zhao et al. 2023, arXiv 2305.10425) on DPO's log-ratios, as in RSO (Liu et al. 2023, arXiv
    2309.06657). A tied group keeps its place in the mean, so the loss of a batch is the mean of the losses of its equal
    parts, whichever of them the ties fall into; a batch of only ties has zero gradients rather than none.

    policy_errors, reference_errors, labels: [B, k]. Returns the loss and `pair_metrics` with gradient_factor =
    fraction of the groups with a preference and z < 1, those that still pull.
    Raises ValueError for bad shapes, a missing reference or beta <= 0.
    """
    check_positive("beta", beta)
    policy = checked_errors("policy_errors", policy_errors, labels, candidates=2)
    reference = checked_errors("reference_errors", reference_errors, labels, candidates=2)

    z = (beta / 2) * margin(policy, reference)
    wins = preferred(labels)
    pulling = ((z < 1) & wins).float()
    return (relu(1 - z) * wins).mean(), pair_metrics(policy, reference, labels, gradient_factor=pulling)
