"""Direct score preference optimisation: denoise the winner, with a target moved away from the reference."""

from __future__ import annotations

import torch
from torch import Tensor

from .contract import LossAndMetrics, check_positive, checked_errors
from .margin import margin, pair_metrics, preferred


def dspo(
    policy_errors: Tensor, reference_errors: Tensor | None, labels: Tensor, *, drift: Tensor, beta: float = 0.001
) -> LossAndMetrics:
    """DSPO: mean of |a - c b|^2 on the winner, c = beta σ(-u), u = beta/2 * m.

        a = prediction - target    b = prediction - reference's prediction    m = (ref_w - pol_w) - (ref_l - pol_l)

    Zhu et al., ICLR 2025, the official code's loss for SD1.5 with beta = 0.001. The vectors are not needed: with
    D = |b|^2 (`drift`), |a|^2 = pol and |a - b|^2 = ref,

        |a - c b|^2 = pol - c (pol + D - ref) + c^2 D

    which is exact, and so is its gradient, *if D carries gradient*: a detached drift trains something else. Gradient
    flows through c too. At the published beta u is about 0 and c is beta/2 throughout: nearly plain training on the
    winners. The official SDXL branch is another, discontinuous loss with beta = 5000; it has no place here.

    A tied group has no winner and adds 0 to the mean.

    policy_errors, reference_errors, labels, drift: [B, k], the errors and `drift` reduced over elements alike. Returns
    the loss and `pair_metrics` with gradient_factor = mean σ(-u), 1/2 at policy = reference.
    Raises ValueError for bad shapes, a missing reference or beta <= 0.
    """
    check_positive("beta", beta)
    policy = checked_errors("policy_errors", policy_errors, labels, candidates=2)
    reference = checked_errors("reference_errors", reference_errors, labels, candidates=2)
    winner_drift = checked_errors("drift", drift, labels, candidates=2)[:, 0]

    weight = torch.sigmoid(-(beta / 2) * margin(policy, reference))
    c = beta * weight
    product = (policy[:, 0] + winner_drift - reference[:, 0]) / 2  # <a, b>
    squared = policy[:, 0] - 2 * c * product + c.square() * winner_drift
    loss = (squared * preferred(labels)).mean()
    return loss, pair_metrics(policy, reference, labels, gradient_factor=weight)
