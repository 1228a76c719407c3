"""A reward model's training, as the training loop sees it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...datasets.ahead import default_workers, ordered_map
from ...errors import UserError
from ...training.disk import write_json
from ...training.loader import to_device
from ...training.order import visit_at
from ...training.task import Visit
from ..scoring.picture_file import read_picture
from .held_out import report
from .learner import Learner
from .losses import PairLoss, pairs_of, step_weights
from .plan import Entry, Plan

REPORTED = (
    *("accuracy", "accuracy_half", "accuracy_threshold", "tie_threshold"),
    *("nll", "calibration_error", "temperature"),
)
"""What a validation says of the whole; the rest is in the report's file."""


@dataclass
class RewardTask:
    """A loss on a learner on preference groups; see `training.task.Task` for what the loop asks of it.

    Args:
        batch_size: groups of a step, over which `step_weights` weighs them.
        micro_batch: groups of a forward pass, in validation too.
        report_file: where each validation writes its whole report.
    """

    learner: Learner
    train: Plan
    held_out: Plan | None
    pair_loss: PairLoss
    seed: int
    batch_size: int
    micro_batch: int
    report_file: Path
    network: nn.Module = field(init=False)

    def __post_init__(self) -> None:
        self.network = self.learner.network
        self.groups = len(self.train)
        self._weighed: tuple[int, list[float]] = (-1, [])
        if self.pair_loss.weighting == "prompts":
            _ = self.train.prompt_counts  # counted once, before workers are forked

    def item(self, visit: Visit) -> dict[str, Any]:
        """One group: its prompt, k prepared pictures, labels, and its weight in the step."""
        item = self._item(self.train, visit.index)
        step, place = divmod(visit.position, self.batch_size)
        if self._weighed[0] != step:
            self._weighed = (step, self._weights(step))
        return {**item, "weight": self._weighed[1][place]}

    def _item(self, plan: Plan, index: int) -> dict[str, Any]:
        entry = plan[index]
        group = plan.store[entry.row]
        try:
            pixels = [self.learner.prepare(read_picture(data)) for data in group.candidates]
        except (OSError, ValueError) as error:
            raise UserError(f"group {group.key!r} has a picture that cannot be used: {error}") from error
        return {"prompt": entry.prompt, "pixels": pixels, "labels": entry.ranks, "weight": 1.0}

    def _weights(self, step: int) -> list[float]:
        """Of all groups of a step, whichever process and micro-batch they are in."""
        positions = range(step * self.batch_size, (step + 1) * self.batch_size)
        entries = [self.train[visit_at(self.seed, self.groups, position).index] for position in positions]
        counted = [entry.pairs if self.pair_loss.uses_ties else entry.decided for entry in entries]
        weighting = self.pair_loss.weighting
        prompts = [self.train.prompt_counts[entry.prompt] if weighting == "prompts" else 1 for entry in entries]
        return step_weights(weighting, prompts, counted)

    def collate(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch: n pictures in a row, whose they are, and labels `[B, k]` of the largest group's k, NaN beyond."""
        sizes = [len(item["labels"]) for item in items]
        labels = torch.full((len(items), max(sizes)), torch.nan)
        for row, item in zip(labels, items, strict=True):
            row[: len(item["labels"])] = torch.tensor(item["labels"], dtype=torch.float32)
        pixels = [picture for item in items for picture in item["pixels"]]
        return {
            "prompts": [item["prompt"] for item in items],
            "pixels": torch.stack(pixels) if len({picture.shape for picture in pixels}) == 1 else pixels,
            "owners": torch.arange(len(items)).repeat_interleave(torch.tensor(sizes)),
            "places": torch.cat([torch.arange(size) for size in sizes]),
            "labels": labels,
            "weights": torch.tensor([item["weight"] for item in items]),
        }

    def _outputs(self, batch: dict[str, Any]) -> list[Tensor]:
        """Scores `[B, k]`, and the logarithms of their deviations where the network gives them; 0 where a group has no
        candidate."""
        owners, empty = batch["owners"], torch.zeros_like(batch["labels"])
        words = to_device(dict(self.learner.read(batch["prompts"])), owners.device)
        outputs = self.network(words, batch["pixels"], owners)
        columns = outputs.reshape(len(owners), -1).unbind(dim=1)
        return [empty.index_put((owners, batch["places"]), column) for column in columns]

    def loss(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean over groups of weight * loss; accuracy and margin of the decided pairs."""
        outputs, labels = self._outputs(batch), batch["labels"]
        used = outputs if self.pair_loss.spread else outputs[:1]
        loss = (batch["weights"] * self.pair_loss.function(*used, labels)).mean()
        pairs = pairs_of(outputs[0].detach(), labels)
        decided = pairs.decided
        right = torch.heaviside(pairs.advantage, torch.full_like(pairs.advantage, 0.5))
        metrics = {"accuracy": right, "margin": pairs.advantage}
        # Sums over a mask: indexing with it would make the host wait for the device.
        return loss, {name: torch.where(decided, value, 0).sum() / decided.sum() for name, value in metrics.items()}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Score every held-out group, write the report, and give its numbers for the whole."""
        if self.held_out is None:
            return {}
        differences, outcomes, sources = [], [], []
        for entries, batch in self._held_out_batches(self.held_out):
            pairs = pairs_of(self._outputs(batch)[0], batch["labels"])
            for row, entry in enumerate(entries):
                there = pairs.there[row]
                differences.append(pairs.difference[row][there].cpu().numpy())
                outcomes.append(pairs.outcome[row][there].cpu().numpy())
                sources += [entry.source] * entry.pairs
        numbers = report(np.concatenate(differences), np.concatenate(outcomes), sources)
        write_json(self.report_file, numbers)
        return {name: math.nan if numbers[name] is None else numbers[name] for name in REPORTED}

    def _held_out_batches(self, plan: Plan) -> Iterator[tuple[list[Entry], dict[str, Any]]]:
        device = next(self.network.parameters()).device
        items: list[tuple[int, dict[str, Any]]] = []
        for number, item in ordered_map(partial(self._item, plan), range(len(plan)), default_workers()):
            items.append((number, item))
            if len(items) == self.micro_batch or number == len(plan) - 1:
                batch = to_device(self.collate([item for _, item in items]), device)
                yield [plan[index] for index, _ in items], batch
                items = []

    def sample(self, folder: Path, step: int) -> None:
        """A reward draws nothing."""

    def save(self, folder: Path) -> None:
        """Write the final weights as the scorer opens them."""
        self.learner.save(folder)
