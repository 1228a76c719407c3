"""A step-aware preference model's training, as the training loop sees it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...diffusion import Stream, generator_for, group_noise, group_times, normal_noise
from ...rewards.learn.losses import pairs_of, pickscore_loss, step_weights
from ...rewards.step_aware import StepAware, save_step_aware
from ...training.loader import to_device
from ...training.order import visit_at
from ...training.task import Visit
from ..models.family import Conditions, Framing
from ..models.model import TextToImageModel
from ..plan import Plan
from ..prepare import Prepared
from .estimate import clean_estimates, decode_pixels, thousandths, time_at, uniform_times

_HELD_OUT_POSITIONS = 2**40
"""Held-out draws lie beyond every training position, so that validation never repeats a training draw."""


@dataclass
class StepAwareTask:
    """SPO's preference model on pairs (section 3 of the paper); see `training.task.Task` for what the loop asks of it.

    A pair is corrupted to one time with one noise; the frozen network's guided estimates of the clean pictures are
    decoded and judged at that time. The loss is KL(labels || softmax of the two scores), so that an ideal tie costs
    nothing, and a prompt that comes often weighs less (see `step_weights`).

    Args:
        model: the diffusion model, frozen, on the device of training.
        judge: what is trained.
        prepared: pairs.
        empty: the empty prompt's conditions, one row.
        guidance: of the estimates.
        evaluate_at: times of the validation, in thousandths; 0 is the clean latents, decoded.
        batch_size: groups of a step, over which weights are shared out.
        micro_batch: groups of a forward pass, in validation too.
        variants: of crop and flip that are prepared.
    """

    model: TextToImageModel
    judge: StepAware
    prepared: Prepared
    empty: Conditions
    guidance: float
    evaluate_at: Sequence[float]
    seed: int
    batch_size: int
    micro_batch: int = 1
    variants: int = 1
    network: nn.Module = field(init=False)

    def __post_init__(self) -> None:
        self.network = self.judge.network
        self.groups = len(self.prepared.train)
        prompts = self.prepared.train.table["prompt"].to_pylist()
        counts = Counter(prompts)
        self._sharing = [counts[prompt] for prompt in prompts]
        self._weighed: tuple[int, list[float]] = (-1, [])
        self._times = uniform_times(self.model)
        channels, factor = self.model.latent_shape
        self._latent_shape = (channels, *[self.prepared.resolution // factor] * 2)

    def item(self, visit: Visit) -> dict[str, Any]:
        """One pair: its latents, labels and weight in the step, and all that is random in this visit."""
        step, place = divmod(visit.position, self.batch_size)
        if self._weighed[0] != step:
            self._weighed = (step, self._weights(step))
        return {**self._item(self.prepared.train, visit), "weight": torch.tensor(self._weighed[1][place])}

    def _item(self, plan: Plan, visit: Visit) -> dict[str, Any]:
        entry, position = plan[visit.index], visit.position
        drawn = torch.randint(self.variants, (1,), generator=generator_for(self.seed, Stream.AUGMENTATION, position))
        each = [generator_for(self.seed, Stream.POSTERIOR, position, i) for i in range(len(entry.images))]
        return {
            "prompt": entry.prompt,
            # Each picture's own caption, where it has one, makes its estimate; the judge reads the group's prompt.
            "source": self.prepared.source.item(entry, self.prepared.views(entry.row, int(drawn)), entry.prompts),
            "labels": torch.tensor(entry.labels),
            "weight": torch.tensor(1.0),
            "posterior": normal_noise((len(each), *self._latent_shape), each),
            "noise": group_noise(self.seed, [position], 1, self._latent_shape)[0],
            "times": group_times(self._times, self.seed, [position])[0],
        }

    def _weights(self, step: int) -> list[float]:
        """Of all pairs of a step, whichever process and micro-batch they are in."""
        positions = range(step * self.batch_size, (step + 1) * self.batch_size)
        sharing = [self._sharing[visit_at(self.seed, self.groups, position).index] for position in positions]
        return step_weights("prompts", sharing, [1] * len(sharing))

    def collate(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch of items."""
        batch = self.prepared.source.collate([item["source"] for item in items])
        stacked = ("labels", "weight", "posterior", "noise", "times")
        batch |= {name: torch.stack([item[name] for item in items]) for name in stacked}
        return batch | {"judged_prompts": [item["prompt"] for item in items]}

    def loss(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean over pairs of weight * loss; accuracy and margin of the decided ones."""
        batch = self._encoded(batch)
        times, labels = batch["times"], batch["labels"]
        scores = self._scores(batch, self._estimates(batch, times), times)
        loss = (batch["weight"] * pickscore_loss(scores, labels)).mean()
        pairs = pairs_of(scores.detach(), labels)
        right = torch.heaviside(pairs.advantage, torch.full_like(pairs.advantage, 0.5))
        metrics = {"accuracy": right, "margin": pairs.advantage}
        # Sums over a mask: indexing with it would make the host wait for the device.
        decided = pairs.decided
        return loss, {name: torch.where(decided, value, 0).sum() / decided.sum() for name, value in metrics.items()}

    @torch.no_grad()
    def _encoded(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch with clean latents `[B, k, C, h, w]` and conditions as a sampler has them."""
        batch = self.prepared.source.finish(batch)
        clean = batch["mean"] + batch["std"] * batch["posterior"].to(batch["mean"])
        # The picture's own size would be SDXL's truth in training; what is judged later is sampled at full size.
        side = self.prepared.resolution
        whole = Framing((side, side), (0, 0), (side, side))
        sizes = self.model.family.size_conditions([whole] * clean.shape[:2].numel())
        conditions = batch["conditions"] | to_device(sizes, clean.device)
        return {**batch, "clean": clean, "conditions": conditions}

    def _estimates(self, batch: dict[str, Any], times: Tensor) -> Tensor:
        """Clean estimates `[B, k, C, h, w]` of the pairs at times `[B]`."""
        clean, conditions = batch["clean"], batch["conditions"]
        flat, noise = clean.flatten(0, 1), batch["noise"].to(clean).expand_as(clean).flatten(0, 1)
        empty = {name: row.to(flat.device).expand(len(flat), *row.shape[1:]) for name, row in self.empty.items()}
        each = times.repeat_interleave(clean.shape[1])
        noisy = self.model.process.corrupt(flat, noise, each)
        estimates = clean_estimates(self.model, noisy, each, conditions, conditions | empty, self.guidance)
        return estimates.view_as(clean)

    def _scores(self, batch: dict[str, Any], estimates: Tensor, times: Tensor) -> Tensor:
        """Scores `[B, k]` of clean estimates `[B, k, C, h, w]` that were made at times `[B]`."""
        count, k = estimates.shape[:2]
        pixels = self.judge.prepare_tensor(decode_pixels(self.model, estimates.flatten(0, 1)))
        ids = self.judge.tower.prompts.read(batch["judged_prompts"]).to(pixels.device)
        each = torch.arange(count, device=pixels.device).repeat_interleave(k)
        return self.network(ids, pixels, each, thousandths(self._times, times)[each]).view(count, k)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Accuracy on the decided held-out pairs at each time, equal scores counting half, and the mean over times."""
        plan = self.prepared.held_out
        if plan is None:
            return {}
        sums: dict[float, tuple[float, int]] = dict.fromkeys(self.evaluate_at, (0.0, 0))
        for start in range(0, len(plan), self.micro_batch):
            numbers = range(start, min(len(plan), start + self.micro_batch))
            items = [self._item(plan, Visit(_HELD_OUT_POSITIONS + number, number)) for number in numbers]
            batch = self._encoded(to_device(self.collate(items), self.model.device))
            for at, (right, count) in sums.items():
                pairs = pairs_of(self._scores_at(batch, at), batch["labels"])
                advantage = pairs.advantage[pairs.decided]
                hits = torch.heaviside(advantage, torch.full_like(advantage, 0.5)).sum()
                sums[at] = (right + float(hits), count + len(advantage))
        accuracies = {accuracy_at(at): right / count if count else math.nan for at, (right, count) in sums.items()}
        return {"accuracy": math.fsum(accuracies.values()) / len(accuracies), **accuracies}

    def _scores_at(self, batch: dict[str, Any], thousandth: float) -> Tensor:
        times = time_at(self._times, thousandth).to(self.model.device).expand(len(batch["clean"]))
        estimates = self._estimates(batch, times) if thousandth else batch["clean"]
        return self._scores(batch, estimates, times)

    def sample(self, folder: Path, step: int) -> None:
        """A preference model draws nothing."""

    def save(self, folder: Path) -> None:
        """Write the final weights as `open_step_aware` opens them."""
        save_step_aware(self.judge, folder)


def accuracy_at(thousandth: float) -> str:
    """What a validation calls its accuracy at a time."""
    return f"accuracy_t{thousandth:g}"
