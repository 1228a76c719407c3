"""DPO that asks of every label whether it was flipped, and how often labels are, by expectation-maximisation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .contract import LossAndMetrics, check_positive, checked_errors, scalar
from .dpo import conservative
from .margin import margin, pair_metrics, preferred
from .processes import mean_over_processes

# A rate of 1/2 would say that labels mean nothing, and above it that they mean the opposite.
_RATES = (1e-6, 0.49)


def em_dpo(
    policy_errors: Tensor,
    reference_errors: Tensor | None,
    labels: Tensor,
    *,
    beta: float,
    flip_prior: float = 0.1,
    rounds: int = 3,
) -> LossAndMetrics:
    """Mean of -w log σ(z) - (1 - w) log σ(-z), z = kappa m, kappa = beta / 2, w = P(the label is right | z), detached.

        m = (ref_w - pol_w) - (ref_l - pol_l)
        w = (1 - e) σ(z) / ((1 - e) σ(z) + e σ(-z)) = σ(z + ln((1 - e) / e))      E-step
        e = mean of 1 - w over the groups with a preference, at most 0.49         M-step

    Cao et al. 2025, arXiv 2509.24159 (RPO, later RE-PO), which learns a reliability for each annotator over the whole
    training. Here there is one rate e, from `rounds` rounds that start at `flip_prior` within one micro-batch of all
    processes: with few groups e follows every single margin.

    For the last e this is the gradient of the likelihood -log((1 - e) σ(z) + e σ(-z)): the slope in z is σ(z) - w. A
    pair that the policy firmly contradicts is let go, where `dpo` would pull hardest; none is ever pulled backwards.
    A tied group has no label to doubt: as in `dpo` its target probability is 1/2.

    policy_errors, reference_errors, labels: [B, k]. Returns the loss and `pair_metrics` with gradient_factor = mean
    |slope in z|, 1/2 - flip_prior at policy = reference, and `flip_rate` = e (NaN for a batch of ties). Raises
    ValueError for bad shapes, a missing reference, beta <= 0, flip_prior outside (0, 0.5) or rounds < 1.
    """
    check_positive("beta", beta)
    if not 0 < flip_prior < 0.5:
        raise ValueError(f"flip_prior is {flip_prior}; expected a flip probability above 0 and below 0.5")
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; expected 1 or more")
    policy = checked_errors("policy_errors", policy_errors, labels, candidates=2)
    reference = checked_errors("reference_errors", reference_errors, labels, candidates=2)

    z = (beta / 2) * margin(policy, reference)
    wins = preferred(labels)
    w, rate = _posterior(z, wins, flip_prior, rounds)
    loss = torch.where(wins, -w * logsigmoid(z) - (1 - w) * logsigmoid(-z), conservative(z, 0.5)).mean()
    pull = (torch.sigmoid(z) - torch.where(wins, w, 0.5)).abs()
    metrics = pair_metrics(policy, reference, labels, gradient_factor=pull)
    return loss, metrics | {"flip_rate": scalar(rate.expand_as(z), where=wins)}


def _posterior(z: Tensor, wins: Tensor, prior: float, rounds: int) -> tuple[Tensor, Tensor]:
    """w [B] and the rate e [] that it follows from, both detached."""
    z = z.detach()
    rate = z.new_full((), prior)
    for _ in range(rounds):
        found = mean_over_processes(torch.sigmoid(-z + torch.logit(rate)), where=wins)
        rate = torch.where(found.isnan(), rate, found.clamp(*_RATES))  # NaN: only ties, nothing is learned
    return torch.sigmoid(z - torch.logit(rate)), rate
