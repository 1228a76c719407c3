"""Learn tastes from votes: all users together, or one more from a few votes. See `pal`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import UserError
from .tastes import Shape, Tastes, Votes, vote_margins

LARGEST_SCALE = 100.0
"""Of the factor s, as in CLIP's own training."""

Loss = Literal["logistic", "hinge"]
LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "logistic": lambda margins: -F.logsigmoid(margins).mean(),
    "hinge": lambda margins: F.relu(1 - margins).mean(),
}
"""Of margins r(preferred) - r(other) `[n]`: mean of -log sigmoid(m), or of max(0, 1 - m)."""


@dataclass(frozen=True)
class Fit:
    """How `fit` learns: Adam with weight decay on the networks and without on prototypes, weights and scale.

    The reference's rates on Pick-a-Pic are 1e-4 and 5e-3, for 10 passes; these suit a few thousand votes.

    Args:
        loss: a name in `LOSSES`.
        epochs: passes over the votes.
        batch_size: votes of a step.
        learning_rate: of the networks.
        point_rate: of prototypes, users' weights and scale.
        weight_decay: of the networks.
        seed: of initialisation and order.
    """

    loss: Loss = "logistic"
    epochs: int = 30
    batch_size: int = 256
    learning_rate: float = 1e-3
    point_rate: float = 3e-2
    weight_decay: float = 1e-2
    seed: int = 0


def fit(
    votes: Votes,
    shape: Shape,
    how: Fit | None = None,
    features: str = "",
    device: torch.device | str = "cpu",
    advance: Callable[[int, float], None] | None = None,
) -> Tastes:
    """Learn networks, prototypes and every user's weights together.

    Weights are softmaxes of numbers that start at random, for equal users would move all prototypes alike.

    Args:
        shape: of the model; its width is the features'.
        features: kept in the result: whose features the votes hold, as the reward's `name`.
        advance: called after each epoch with its number from 1 and its mean loss.

    Raises:
        UserError: there are no votes, the width is another, the loss is unknown, or the numbers run away.
    """
    how = how or Fit()
    loss_of = _loss(how.loss)
    if not len(votes):
        raise UserError("there are no votes to learn from")
    _require_features(votes, shape.width)
    if how.batch_size < 1:
        raise UserError(f"batch_size is {how.batch_size}; it is 1 or more")
    generator = torch.Generator().manual_seed(how.seed)
    model = shape.build(generator).to(device)
    names = sorted(set(votes.users))
    number = {name: row for row, name in enumerate(names)}
    logits = torch.randn(len(names), shape.k, generator=generator).to(device).requires_grad_()
    votes = votes.to(logits.device)
    rows = torch.tensor([number[user] for user in votes.users], device=logits.device)
    networks = [value for name, value in model.named_parameters() if name.startswith(("f.", "g."))]
    points = [value for name, value in model.named_parameters() if not name.startswith(("f.", "g."))]
    optimizer = torch.optim.AdamW(
        [
            {"params": networks, "lr": how.learning_rate, "weight_decay": how.weight_decay},
            {"params": [*points, logits], "lr": how.point_rate, "weight_decay": 0.0},
        ]
    )
    for epoch in range(1, how.epochs + 1):
        total = 0.0
        for chosen in torch.randperm(len(votes), generator=generator).split(how.batch_size):
            chosen = chosen.to(logits.device)
            loss = loss_of(vote_margins(model, logits[rows[chosen]].softmax(dim=-1), votes, chosen))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():  # here and not in the reward, where a scale at its bound would have no gradient
                model.log_scale.clamp_(max=math.log(LARGEST_SCALE))
            total += float(loss.detach()) * len(chosen)
        if not math.isfinite(total):
            raise UserError(f"the loss is {total} after epoch {epoch}; take smaller rates")
        if advance is not None:
            advance(epoch, total / len(votes))
    model.requires_grad_(False).eval()
    weights = logits.detach().softmax(dim=-1).cpu()
    return Tastes(shape, model, dict(zip(names, weights, strict=True)), features)


def fit_user(tastes: Tastes, votes: Votes, loss: Loss = "logistic", steps: int = 100, rate: float = 0.1) -> Tensor:
    """The weights of one user from a few votes, float32 `[K]` on the simplex; all else stays as it is.

    Adam on the softmax's K numbers, all votes at once, from the crowd's weights; no votes give the crowd's. The votes'
    `users` are not looked at.

    Raises:
        UserError: the loss is unknown, the width is another, or the features hold no numbers.
    """
    loss_of = _loss(loss)
    _require_features(votes, tastes.shape.width)
    device = next(tastes.model.parameters()).device
    logits = tastes.crowd.clamp(min=1e-6).log().to(device).requires_grad_()
    if len(votes):
        votes = votes.to(device)
        optimizer = torch.optim.Adam([logits], lr=rate)
        for _ in range(steps):
            weights = logits.softmax(dim=-1).expand(len(votes), -1)
            value = loss_of(vote_margins(tastes.model, weights, votes))
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    return logits.detach().softmax(dim=-1).cpu()


def _require_features(votes: Votes, width: int) -> None:
    """Raises UserError."""
    if not len(votes):
        return
    if votes.preferred.shape[1] != width:
        raise UserError(f"the votes' features have width {votes.preferred.shape[1]} and the model {width}")
    if not all(bool(part.isfinite().all()) for part in (votes.preferred, votes.other, votes.prompts)):
        raise UserError("a feature of the votes is no finite number")


def _loss(name: str) -> Callable[[Tensor], Tensor]:
    if name not in LOSSES:
        raise UserError(f"there is no loss {name!r}; known are {', '.join(LOSSES)}")
    return LOSSES[name]
