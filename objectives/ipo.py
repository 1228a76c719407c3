"""Identity preference optimisation: a squared loss that stops at a finite margin."""

from __future__ import annotations

from torch import Tensor

from .contract import LossAndMetrics, check_positive, checked_errors
from .margin import margin, pair_metrics, preferred


def ipo(policy_errors: Tensor, reference_errors: Tensor | None, labels: Tensor, *, beta: float) -> LossAndMetrics:
    """IPO: mean of (m - 1 / (2 beta))^2, m = (ref_w - pol_w) - (ref_l - pol_l).

    Azar et al. 2023, arXiv 2310.12036, eq. 17, where beta is called τ. Here beta is no slope but sets the margin to
    reach: 1 / (2 beta), a difference of errors. Errors that are means over elements have small margins (about 1e-3),
    hence betas in the hundreds. A tied group's target margin is 0.

    policy_errors, reference_errors, labels: [B, k]. Returns the loss and `pair_metrics` with gradient_factor = mean
    |1 - 2 beta m|, the pull relative to that at policy = reference (a tied group: |2 beta m|).
    Raises ValueError for bad shapes, a missing reference or beta <= 0.
    """
    check_positive("beta", beta)
    policy = checked_errors("policy_errors", policy_errors, labels, candidates=2)
    reference = checked_errors("reference_errors", reference_errors, labels, candidates=2)

    m = margin(policy, reference)
    target = preferred(labels).to(m.dtype) / (2 * beta)
    distance = m - target
    pull = (2 * beta * distance).abs()
    return distance.square().mean(), pair_metrics(policy, reference, labels, gradient_factor=pull)
