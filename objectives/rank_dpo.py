"""DPO on a whole ranking: every pair of a group, weighted by what exchanging it would cost in DCG."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .contract import LossAndMetrics, check_positive, checked_errors
from .margin import pair_metrics

RankSource = Literal["label", "model"]
Gains = Literal["win_rate", "label"]


def rank_dpo(
    policy_errors: Tensor,
    reference_errors: Tensor | None,
    labels: Tensor,
    *,
    beta: float,
    rank_source: RankSource = "label",
    gains: Gains = "win_rate",
) -> LossAndMetrics:
    """RankDPO: mean over groups of the sum over pairs, i liked better than j, of Δ_ij (-log σ(kappa (g_i - g_j))).

        g    = ref - pol                                       the implicit reward, the paper's -s
        Δ_ij = |2^φ_i - 2^φ_j| |1 / D(τ_i) - 1 / D(τ_j)|       D(τ) = ln(1 + τ), no gradient through Δ

    Karthik et al. 2024, arXiv 2410.18013, algorithm 2. The paper prints beta without a half and no code is public; here
    kappa = beta / 2 as in `dpo`, so that k = 2 with φ = (1, 0) is `dpo` of the same beta times 0.5325.

    `gains` says what φ in [0, 1], the average win probability, is:
        "win_rate"  the share of the group's other labels that a label beats, ties half: algorithm 1 with one rater.
                    Right for any labels: votes, scores, ranks.
        "label"     the labels as they are. For Syn-Pic's, which are win rates over several raters and also tell how
                    clear a win is; labels outside [0, 1] would make 2^φ explode.
    `rank_source` says whose ranks τ (1 is best) are: algorithm 2 sorts by the labels; figure 2 of the paper speaks of
    the model's g, as LambdaRank does. Equals share their mean rank; in the model's ranking the labels decide between
    them, or nothing would move at policy = reference.

    Equal labels have weight 0, and a tied group adds 0 to the mean. Pairs go by their labels: the order of the columns
    matters to the metrics only.

    policy_errors, reference_errors, labels: [B, k]. Returns the loss and `pair_metrics` (best against worst) with
    gradient_factor = mean of the groups' averages of σ(-z) weighted by Δ, 1/2 at policy = reference; a tied group 0.
    Raises ValueError for bad shapes, a missing reference, beta <= 0, an unknown `rank_source` or `gains`.
    """
    check_positive("beta", beta)
    if rank_source not in ("label", "model"):
        raise ValueError(f"rank_source is {rank_source!r}; expected 'label' or 'model'")
    if gains not in ("win_rate", "label"):
        raise ValueError(f"gains is {gains!r}; expected 'win_rate' or 'label'")
    policy = checked_errors("policy_errors", policy_errors, labels, candidates=2)
    reference = checked_errors("reference_errors", reference_errors, labels, candidates=2)

    g = reference - policy
    better = _above(labels)
    ahead = better
    if rank_source == "model":
        by_score = _above(g)
        ahead = by_score | (better & ~by_score.mT)
    phi = win_rates(labels, g.dtype) if gains == "win_rate" else labels.to(g.dtype)
    weights = torch.where(better, _dcg_changes(phi, _ranks(ahead, g.dtype)), 0.0)

    z = (beta / 2) * _differences(g)
    loss = (weights * -logsigmoid(z)).sum(dim=(1, 2)).mean()
    total = weights.sum(dim=(1, 2)).clamp(min=torch.finfo(g.dtype).tiny)
    pull = (weights * torch.sigmoid(-z)).sum(dim=(1, 2)) / total
    return loss, pair_metrics(policy, reference, labels, gradient_factor=pull)


def win_rates(labels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """φ [B, k] in [0, 1]: the share of the group's other labels that each label beats, an equal one counting half."""
    return 1 - (_ranks(_above(labels), dtype) - 1) / (labels.shape[1] - 1)


def _ranks(ahead: Tensor, dtype: torch.dtype) -> Tensor:
    """Ranks [B, k], 1 is best, from ahead [B, k, k]: row i goes before column j; equals share their mean rank."""
    before = ahead.to(dtype).sum(dim=1)
    behind = ahead.to(dtype).sum(dim=2)
    return 1 + (before + (ahead.shape[1] - 1 - behind)) / 2


def _dcg_changes(phi: Tensor, ranks: Tensor) -> Tensor:
    """Δ [B, k, k]: how much the discounted cumulative gain changes if two candidates exchange their ranks."""
    return (_differences(torch.exp2(phi)) * _differences(1 / torch.log1p(ranks))).abs()


def _above(values: Tensor) -> Tensor:
    """[B, k, k] bool: the row's value is above the column's; an unknown (NaN) one is above and below nothing."""
    return values[:, :, None] > values[:, None, :]


def _differences(values: Tensor) -> Tensor:
    return values[:, :, None] - values[:, None, :]
