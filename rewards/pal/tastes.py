"""PAL: tastes that differ. Each user is a mixture of a few prototypes, on the features of a frozen CLIP-type tower.

Paper: Chen et al. 2024, https://arxiv.org/abs/2406.08469; reference: https://github.com/RamyaLab/pluralistic-alignment.

User i has weights w_i on the simplex of K prototypes, and an ideal point that is the prototypes' mean under w_i. A
picture is worth the more to i the nearer it lies to that point. Networks and prototypes are shared by all users; one
user's own are K numbers, which a few votes tell.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import UserError


class Residual(nn.Module):
    """x + W_2 relu(W_1 x + b_1) + b_2; W_2 and b_2 start at 0, so what is not learned is the tower's own feature."""

    def __init__(self, width: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        # Left empty at first: a layer's own start would be drawn from the global state.
        self.first = nn.Linear(width, hidden, device="meta").to_empty(device="cpu")
        self.second = nn.Linear(hidden, width, device="meta").to_empty(device="cpu")
        nn.init.normal_(self.first.weight, std=width**-0.5, generator=generator)
        for zero in (self.first.bias, self.second.weight, self.second.bias):
            nn.init.zeros_(zero)

    def forward(self, features: Tensor) -> Tensor:
        """Features `[..., d]` to `[..., d]`."""
        return features + self.second(F.relu(self.first(features)))


class FixedPoints(nn.Module):
    """PAL-A: the prototypes p_k are points, the same for every prompt.

    a_i = sum_k w_ik p_k,    r_i(x) = -s |f(x) - a_i|
    """

    def __init__(self, k: int, width: int, hidden: int, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        self.f = Residual(width, hidden, generator)
        self.prototypes = nn.Parameter(torch.empty(k, width))
        nn.init.normal_(self.prototypes, std=width**-0.5, generator=generator)
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))

    def forward(self, weights: Tensor, pictures: Tensor, prompts: Tensor) -> Tensor:
        """Rewards `[n]` of weights `[n, K]` and features `[n, d]`; the prompts are not looked at."""
        distances = torch.linalg.vector_norm(self.f(pictures) - weights @ self.prototypes, dim=-1)
        return -self.log_scale.exp() * distances


class PromptPoints(nn.Module):
    """PAL-B: each prompt c has prototypes g_k(c) of its own; the form that the paper uses for pictures.

    a_i(c) = sum_k w_ik g_k(c),    r_i(x, c) = s cos(f(x), a_i(c))

    Unlearned it is the tower's own score, s cos(x, c), for every user.
    """

    def __init__(self, k: int, width: int, hidden: int, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        self.f = Residual(width, hidden, generator)
        self.g = nn.ModuleList(Residual(width, hidden, generator) for _ in range(k))
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))

    def forward(self, weights: Tensor, pictures: Tensor, prompts: Tensor) -> Tensor:
        """Rewards `[n]` of weights `[n, K]` and features `[n, d]`."""
        prototypes = torch.stack([g(prompts) for g in self.g], dim=1)  # [n, K, d]
        points = (weights[:, None] @ prototypes)[:, 0]
        return self.log_scale.exp() * F.cosine_similarity(self.f(pictures), points, dim=-1)


Model = FixedPoints | PromptPoints
FORMS: dict[str, type[Model]] = {"a": FixedPoints, "b": PromptPoints}


@dataclass(frozen=True)
class Shape:
    """What a model is built from.

    Args:
        form: "a" (`FixedPoints`) or "b" (`PromptPoints`).
        k: prototypes; 1 gives all users one taste.
        width: d, of the features.
        hidden: of the residual networks.
        scale: s at the start. PAL-B with PickScore's own begins as PickScore.
    """

    form: str
    k: int
    width: int
    hidden: int = 512
    scale: float = 1 / 0.07

    def build(self, generator: torch.Generator) -> Model:
        """A model that has learned nothing. Raises UserError for a form or a number that makes none."""
        if self.form not in FORMS:
            raise UserError(f"PAL has no form {self.form!r}; it is a (fixed ideal points) or b (points of each prompt)")
        if min(self.k, self.width, self.hidden) < 1 or not 0 < self.scale < math.inf:
            raise UserError(f"{self} makes no model: k, width and hidden are 1 or more, and scale is above 0")
        return FORMS[self.form](self.k, self.width, self.hidden, self.scale, generator)


@dataclass(frozen=True, eq=False)
class Tastes:
    """A fitted model and its users.

    Args:
        shape: of the model.
        model: `(weights [n, K], pictures [n, d], prompts [n, d]) -> rewards [n]`, frozen.
        users: weights on the simplex by user, float32 `[K]` each.
        features: whose features it was fitted on, such as `pickscore`.
    """

    shape: Shape
    model: Model
    users: Mapping[str, Tensor]
    features: str = ""

    @property
    def crowd(self) -> Tensor:
        """The users' mean weights `[K]`, the best guess at somebody who has not voted."""
        return torch.stack(list(self.users.values())).mean(dim=0)

    def weights(self, user: str | None) -> Tensor:
        """A user's weights `[K]`; the crowd's for None. Raises UserError for somebody unknown."""
        if user is None:
            return self.crowd
        if user not in self.users:
            raise UserError(f"{user!r} is none of the {len(self.users)} users; fit them with a few votes first")
        return self.users[user]

    def score(self, user: str | None, pictures: Tensor, prompts: Tensor) -> Tensor:
        """What pictures are worth to a user, float32 `[n]`, higher is better; differentiable in the features.

        Only the order and differences within a prompt mean anything.

        Args:
            user: None for the crowd.
            pictures: the tower's features `[n, d]`.
            prompts: those of the prompts `[n, d]`.

        Raises:
            UserError: the user is unknown.
        """
        device = next(self.model.parameters()).device
        pictures, prompts = pictures.to(device).float(), prompts.to(device).float()
        return self.model(self.weights(user).to(device).expand(len(pictures), -1), pictures, prompts)

    def with_user(self, user: str, weights: Tensor) -> Tastes:
        """The same with one user more, or other weights for one."""
        return replace(self, users={**self.users, user: weights})


@dataclass(frozen=True, eq=False)
class Votes:
    """n choices between two pictures of one prompt.

    Args:
        users: who chose, `n` names.
        preferred: features of the picture that was chosen, float32 `[n, d]`.
        other: those of the one that was not.
        prompts: those of the prompt.

    Raises:
        ValueError: the shapes disagree.
    """

    users: Sequence[str]
    preferred: Tensor
    other: Tensor
    prompts: Tensor

    def __post_init__(self) -> None:
        shapes = {tuple(tensor.shape) for tensor in (self.preferred, self.other, self.prompts)}
        if len(shapes) > 1 or self.preferred.ndim != 2 or len(self.users) != len(self.preferred):
            raise ValueError(f"{len(self.users)} votes with features of shapes {sorted(shapes)}; expected all [n, d]")

    def __len__(self) -> int:
        return len(self.users)

    def to(self, device: torch.device) -> Votes:
        """On a device, in float32."""
        return Votes(self.users, *(part.to(device).float() for part in (self.preferred, self.other, self.prompts)))


def vote_margins(model: Model, weights: Tensor, votes: Votes, rows: Tensor | slice = slice(None)) -> Tensor:
    """r(preferred) - r(other) of the votes at `rows` under weights `[n, K]`, `[n]`: above 0 where the model agrees."""
    prompts = votes.prompts[rows]
    return model(weights, votes.preferred[rows], prompts) - model(weights, votes.other[rows], prompts)


def accuracy(tastes: Tastes, votes: Votes) -> float:
    """The share of votes that the users' own tastes foretell; equal rewards count half.

    Raises:
        UserError: a user is unknown.
    """
    votes = votes.to(next(tastes.model.parameters()).device)
    weights = torch.stack([tastes.weights(user) for user in votes.users]).to(votes.preferred.device)
    with torch.no_grad():
        margins = vote_margins(tastes.model, weights, votes)
    return float((margins > 0).double().mean() + (margins == 0).double().mean() / 2)
