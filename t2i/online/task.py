"""Learning from one's own pictures, as the training loop sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...diffusion import RowPredict, guided
from ...errors import PalateError
from ...training.task import Visit
from ..models.family import Conditions
from ..models.model import TextToImageModel
from ..models.policy import Policy
from ..step_aware.estimate import decode_pixels, thousandths
from .conditions import EncodedPrompts, expanded
from .judging import PictureJudge
from .method import OnlineMethod, Part, Scene
from .tally import Tally

_PATIENCE = 10  # micro-batches in a row without one score


@dataclass
class OnlineTask:
    """A method on a model on prompts; see `training.task.TaskInParts` for what the loop asks of it.

    A group is a prompt. A micro-batch is rolled out by the policy as it is, without gradient, step by step; the pairs
    of each step are a loss of their own, made and back-propagated before the rollout goes on.

    Args:
        encoded: holds `prompts`, and the empty one.
        resolution: pixels a side.
        draw_samples: writes the grid of samples.
        validation: the held-out numbers of the policy's network.
    """

    model: TextToImageModel
    policy: Policy
    method: OnlineMethod
    prompts: Sequence[str]
    encoded: EncodedPrompts
    judge: PictureJudge
    seed: int
    resolution: int
    autocast: torch.dtype | None = None
    draw_samples: Callable[[nn.Module, Path, int], None] | None = None
    validation: Callable[[nn.Module], dict[str, float]] | None = None
    network: nn.Module = field(init=False)
    parts: int = field(init=False)
    memory_keys: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.network = self.policy.network
        self.groups = len(self.prompts)
        self.parts = self.method.parts(self.model.process)
        self.memory_keys = (f"method.{self.method.knob}", "method.rollout_batch")
        self._empty = self.encoded.rows([""])
        self._silent = 0

    def item(self, visit: Visit) -> dict[str, Any]:
        """One visit of a prompt; what is random in it follows from its position."""
        prompt = self.prompts[visit.index]
        return {"position": visit.position, "prompt": prompt, "conditions": self.encoded[prompt]}

    def collate(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch of items."""
        conditions = [item["conditions"] for item in items]
        return {
            "positions": [item["position"] for item in items],
            "prompts": [item["prompt"] for item in items],
            "conditions": {name: torch.stack([one[name] for one in conditions]) for name in conditions[0]},
        }

    def losses(self, batch: dict[str, Any]) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """One loss for each step that is learned from: the sum over its pairs by the number that there could be."""
        tally, scored = Tally(self.parts), False
        for number, part in enumerate(self.method.rollout(self._scene(batch))):
            loss = self._loss(part, batch["conditions"], tally)
            if part.scores is not None:
                scored |= bool(part.scores.isfinite().any())
                _count_scores(part, part.scores, tally)
            if number == self.parts - 1:
                self._require_scores(scored)
            yield loss, tally.report(number)
            del loss, part  # the graph goes with them, before the next one is made

    def loss(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean of `losses`, whose graphs are in memory together: the loop asks for them one by one."""
        parts = list(self.losses(batch))
        names = parts[0][1]
        means = {name: torch.stack([metrics[name] for _, metrics in parts]).nanmean() for name in names}
        return torch.stack([loss for loss, _ in parts]).mean(), means

    def _scene(self, batch: dict[str, Any]) -> Scene:
        process, prompts, (channels, factor) = self.model.process, batch["prompts"], self.model.latent_shape

        def judge(clean_hat: Tensor, times: Tensor, rows: Tensor) -> Tensor:
            pixels = decode_pixels(self.model, clean_hat)
            return self.judge.score([prompts[row] for row in rows.tolist()], pixels, thousandths(process, times))

        return Scene(
            predict=self._predict(self.network, batch["conditions"], self.method.rollout_batch),
            process=process,
            judge=judge,
            shape=(channels, *[self.resolution // factor] * 2),
            seed=self.seed,
            positions=batch["positions"],
            device=next(iter(batch["conditions"].values())).device,
        )

    def _loss(self, part: Part, conditions: Conditions, tally: Tally) -> Tensor:
        with torch.no_grad(), self.policy.reference() as network:
            reference = part.errors(self._predict(network, conditions, self.method.rollout_batch))
        errors = part.errors(self._predict(self.network, conditions))
        labels = torch.tensor([1.0, 0.0], device=errors.device).expand_as(errors)
        loss, metrics = self.method.objective(errors, reference, labels)
        metrics.pop("accuracy_count")  # the pairs are counted below
        for name, value in metrics.items():
            tally.add(name, value, part.share)
        tally.add("valid_pairs", torch.full_like(loss, part.share), 1)
        tally.add("temperature", torch.full_like(loss, self.method.temperature), 1)
        return part.share * loss

    def _predict(self, network: nn.Module, conditions: Conditions, at_once: int | None = None) -> RowPredict:
        """A network, guided, on a batch's prompts; `at_once` latents in a pass, None for all of them."""
        dtype = next(network.parameters()).dtype  # a reference copy may be in lower precision
        empty = {name: tensor.to(conditions[name].device) for name, tensor in self._empty.items()}

        def ask(given: Conditions, noisy: Tensor, times: Tensor) -> Tensor:
            # Accelerate's autocast reaches the trained network alone; a reference in another precision than the policy
            # would show a ratio where there is none.
            with torch.autocast(noisy.device.type, self.autocast or dtype, enabled=self.autocast is not None):
                return self.model.predict(network, noisy.to(dtype), times, given)

        def one(noisy: Tensor, times: Tensor, rows: Tensor) -> Tensor:
            given = {name: tensor[rows] for name, tensor in conditions.items()}
            without = partial(ask, expanded(empty, len(rows)))
            return guided(partial(ask, given), without, self.method.guidance)(noisy, times)

        def predict(noisy: Tensor, times: Tensor, rows: Tensor) -> Tensor:
            size = at_once or len(rows)
            parts = zip(noisy.split(size), times.split(size), rows.split(size), strict=True)
            return torch.cat([one(*part) for part in parts])

        return predict

    def _require_scores(self, scored: bool) -> None:
        self._silent = 0 if scored else self._silent + 1
        if self._silent >= _PATIENCE:
            raise PalateError(
                f"the judge {self.judge.name} has given no score to any picture of {_PATIENCE} micro-batches, so there "
                f"is nothing to learn from: {self.judge.reason}"
            )

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """The judge's mean score of pictures of held-out prompts."""
        return self.validation(self.network) if self.validation else {}

    def sample(self, folder: Path, step: int) -> None:
        """Draw the validation prompts' pictures into one grid."""
        if self.draw_samples:
            self.draw_samples(self.network, folder, step)

    def save(self, folder: Path) -> None:
        """Write the final weights."""
        self.policy.save(folder)


def _count_scores(part: Part, scores: Tensor, tally: Tally) -> None:
    """`reward` is the mean score of the last pictures, `unscored` the share of all that have none."""
    count = int(scores.isfinite().sum())
    tally.add("reward", scores.nanmean(), count if part.final else 0)
    tally.add("unscored", 1 - torch.full_like(scores[0, 0], count / scores.numel()), scores.numel())
