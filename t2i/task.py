"""Preference alignment of a text-to-image model, as the training loop sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..diffusion import Stream, denoising_error, generator_for, normal_noise
from ..diffusion.likelihood import residual_overlap
from ..training.task import Visit
from .method import Method, Rival
from .models.family import Conditions
from .models.model import TextToImageModel
from .models.policy import Policy
from .plan import Plan
from .prepare import Prepared
from .rivals import draw_rivals

_HELD_OUT_POSITIONS = 2**40
"""Held-out draws lie beyond every training position, so that validation never repeats a training draw."""


@dataclass
class AlignmentTask:
    """A method on a model on prepared data; see `training.task.Task` for what the loop asks of it."""

    model: TextToImageModel
    policy: Policy
    method: Method
    prepared: Prepared
    seed: int
    caption_dropout: float = 0.0
    variants: int = 1
    micro_batch: int = 1
    visits: int | None = None
    easiest: np.ndarray | None = None
    autocast: torch.dtype | None = None
    draw_samples: Callable[[nn.Module, Path, int], None] | None = None
    at_step: Callable[[int], None] | None = None
    flops_per_group: float | None = None
    network: nn.Module = field(init=False)

    def __post_init__(self) -> None:
        self.network = self.policy.network
        self.groups = len(self.prepared.train)
        channels, factor = self.model.latent_shape
        self._pipeline = None
        self._latent_shape = (channels, *[self.prepared.resolution // factor] * 2)

    def item(self, visit: Visit) -> dict[str, Any]:
        """One visit of a group: its variant and whether its captions are dropped are drawn once for all candidates."""
        return self._item(self.prepared.train, visit)

    def _item(self, plan: Plan, visit: Visit, dropout: bool = True) -> dict[str, Any]:
        entry = plan[visit.index]
        generator = generator_for(self.seed, Stream.DROPOUT, visit.position)
        variant = int(torch.randint(self.variants, (1,), generator=generator))
        dropped = dropout and bool(torch.rand(1, generator=generator) < self.caption_dropout)
        prompts = [""] * len(entry.prompts) if dropped else entry.prompts
        item = self.prepared.source.item(entry, self.prepared.views(entry.row, variant), prompts)
        draws = self.method.corruption.draw(
            self.model.process, self.seed, visit.position, self._latent_shape, entry.seeds
        )
        # Places each candidate within its latent's posterior.
        each = [generator_for(self.seed, Stream.POSTERIOR, visit.position, i) for i in range(len(entry.images))]
        draws["posterior"] = normal_noise((len(each), *self._latent_shape), each)
        if self.method.rival:
            generator = generator_for(self.seed, Stream.SAMPLING, visit.position)
            draws["rival"] = normal_noise(self._latent_shape, generator)  # within its latent's posterior
            draws["rival_seed"] = torch.randint(2**31, (1,), generator=generator)
        progress = min(1.0, visit.position / self.visits) if self.visits and dropout else 0.0
        return {**item, "labels": torch.tensor(entry.labels), "draws": draws, "progress": torch.tensor(progress)}

    def collate(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch of items."""
        batch = self.prepared.source.collate(items)
        batch |= {name: torch.stack([item[name] for item in items]) for name in ("labels", "progress")}
        drawn = items[0]["draws"]
        batch["draws"] = {name: torch.stack([item["draws"][name] for item in items]) for name in drawn}
        return batch

    def loss(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The method's objective on the errors of policy and reference."""
        with torch.no_grad():
            batch = self.prepared.source.finish(batch)
            clean = self._sample_posterior(batch)
        method, process, conditions, labels = self.method, self.model.process, batch["conditions"], batch["labels"]
        if method.rival:
            clean, conditions = self._with_rivals(method.rival, clean, batch)
            labels = torch.tensor([1.0, 0.0], device=clean.device).expand(len(clean), 2)

        ask = partial(self._ask, conditions)
        noisy, target, times = method.corruption.apply(process, clean, batch["draws"], partial(ask, self.network))
        reference = None
        if method.needs_reference:
            with torch.no_grad(), self.policy.reference() as network:
                reference = ask(network, noisy, times)
        prediction = ask(self.network, noisy, times)
        weights = None if method.weighting is None else method.weighting(process, times).to(target)

        def errors(answer: Tensor, truth: Tensor = target) -> Tensor:
            rows = denoising_error(answer, truth, method.reduction)
            return (rows if weights is None else weights * rows).view(clean.shape[:2])

        extras: dict[str, Tensor] = {"progress": batch["progress"]} if "progress" in method.reads else {}
        if "drift" in method.reads:
            assert reference is not None, f"{method.name} reads the drift and has no reference"
            extras["drift"] = errors(prediction, reference)
        if "overlap" in method.reads:
            extras["overlap"] = residual_overlap(prediction, target, clean.shape[1], method.reduction, weights)
        reference_errors = None if reference is None else errors(reference)
        loss, metrics = method.objective(errors(prediction), reference_errors, labels, **extras)
        if method.temperature is not None:
            # Filled on the device: a value sent there would make the host wait, one left here could not be stacked.
            metrics["temperature"] = torch.full((), method.temperature, device=loss.device)
        return loss, metrics

    def _ask(self, conditions: Conditions, network: nn.Module, noisy: Tensor, times: Tensor) -> Tensor:
        dtype = next(network.parameters()).dtype  # a reference copy may be in lower precision
        # Accelerate's autocast reaches the trained network alone; a reference in another precision than the policy
        # would show a margin where there is none.
        with torch.autocast(noisy.device.type, self.autocast or dtype, enabled=self.autocast is not None):
            return self.model.predict(network, noisy.to(dtype), times, conditions)

    def _with_rivals(self, rival: Rival, clean: Tensor, batch: dict[str, Any]) -> tuple[Tensor, Conditions]:
        """Latents `[B, 2, C, h, w]`, each group's own and the one that the reference draws, and their conditions."""
        own, draws = batch["conditions"], batch["draws"]
        empty, seeds = self.prepared.source.empty(), draws["rival_seed"].flatten().tolist()
        with self.policy.reference() as network:
            self._pipeline = self._pipeline or self.model.pipeline(network)  # of the same network in every step
            mean, std, given = draw_rivals(
                self.model, self._pipeline, rival, own, empty, seeds, self.prepared.resolution
            )
        drawn = mean.to(clean) + std.to(clean) * draws["rival"].to(clean)
        conditions = {name: torch.stack([own[name], given[name]], 1).flatten(0, 1) for name in own}
        return torch.cat([clean, drawn[:, None].to(clean)], 1), conditions

    def _sample_posterior(self, batch: dict[str, Any]) -> Tensor:
        mean, std = batch["mean"], batch["std"]
        return mean + std * batch["draws"]["posterior"].to(mean)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Loss and metrics on the held-out groups, with the same draws every time."""
        plan = self.prepared.held_out
        if plan is None:
            return {}
        sums: dict[str, list[tuple[float, float]]] = {}
        for start in range(0, len(plan), self.micro_batch):
            indices = range(start, min(len(plan), start + self.micro_batch))
            visits = [Visit(_HELD_OUT_POSITIONS + i, i) for i in indices]
            batch = self.collate([self._item(plan, visit, dropout=False) for visit in visits])
            loss, metrics = self.loss(_to(batch, self.model.device))
            weights = {"accuracy": float(metrics.pop("accuracy_count"))}  # it is over the groups that are no ties
            for name, value in {**metrics, "loss": loss}.items():
                sums.setdefault(name, []).append((float(value), weights.get(name, len(visits))))
        finite = {name: [(v, w) for v, w in values if v == v] for name, values in sums.items()}
        return {name: sum(v * w for v, w in rows) / sum(w for _, w in rows) for name, rows in finite.items() if rows}

    def sample(self, folder: Path, step: int) -> None:
        """Draw the validation prompts' pictures into one grid."""
        if self.draw_samples:
            self.draw_samples(self.network, folder, step)

    def save(self, folder: Path) -> None:
        """Write the final weights."""
        self.policy.save(folder)


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _to(inner, device) for key, inner in value.items()}
    return value
