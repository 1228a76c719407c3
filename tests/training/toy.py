"""A task of a few dozen weights that has all that a real one has: a reference, pairs, noise, dropout, samples."""

from __future__ import annotations

import copy
import time
import weakref
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from palate.training.config import TrainingConfig
from palate.training.loop import train
from palate.training.seeds import mix
from palate.training.task import Visit, sample_path

BETA = 20.0


class ToyTask:
    """Diffusion-DPO on vectors: the winner is what a hidden matrix makes of the loser."""

    def __init__(self, groups: int = 24, dropout: float = 0.0, bad: int | None = None, pause: float = 0.0) -> None:
        generator = torch.Generator().manual_seed(7)
        self.network: nn.Module = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 4))
        for weight in self.network.parameters():
            weight.data = torch.randn(weight.shape, generator=generator) * 0.3
        self.reference = copy.deepcopy(self.network).requires_grad_(False).eval()
        self.losers = torch.randn(groups, 4, generator=generator)
        self.winners = self.losers @ torch.randn(4, 4, generator=generator) * 0.5
        self.groups = groups
        self.bad = bad
        self.pause = pause
        self.visits: list[Visit] = []

    def item(self, visit: Visit) -> dict[str, torch.Tensor]:
        time.sleep(self.pause)
        self.visits.append(visit)
        noise = torch.randn(4, generator=torch.Generator().manual_seed(mix(3, visit.position)))
        images = torch.stack([self.winners[visit.index], self.losers[visit.index]])
        if visit.position == self.bad:
            images = images * torch.nan
        return {"noisy": images + noise, "noise": noise.expand(2, 4)}

    def collate(self, items: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        return {key: torch.stack([item[key] for item in items]) for key in items[0]}

    def loss(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        policy = (self.network(batch["noisy"]) - batch["noise"]).square().mean(-1)  # [B, 2]
        with torch.no_grad():
            reference = (self.reference(batch["noisy"]) - batch["noise"]).square().mean(-1)
        gain = reference - policy
        margin = gain[:, 0] - gain[:, 1]
        loss = -nn.functional.logsigmoid(BETA * margin).mean()
        metrics = {
            "winner_error": policy[:, 0],
            "loser_error": policy[:, 1],
            "winner_gain": gain[:, 0],
            "loser_gain": gain[:, 1],
            "margin": margin,
            "accuracy": (margin > 0).float() + (margin == 0).float() / 2,
            "gradient_factor": torch.sigmoid(-BETA * margin),
            "temperature": torch.full_like(margin, BETA),
        }
        return loss, {key: value.detach().mean() for key, value in metrics.items()}

    def validate(self) -> dict[str, float]:
        batch = self.collate([self.item(Visit(10**9 + index, index)) for index in range(4)])
        self.visits = self.visits[:-4]
        loss, metrics = self.loss(batch)
        return {"loss": loss.item(), "accuracy": metrics["accuracy"].item()}

    def sample(self, folder: Path, step: int) -> None:
        picture = self.network(self.losers[:8]).sigmoid().mul(255).byte().numpy()
        Image.fromarray(picture).save(sample_path(folder, step))

    def save(self, folder: Path) -> None:
        weights = {name: weight.detach().clone() for name, weight in self.network.named_parameters()}
        save_file(weights, folder / "w.safetensors")


def config(**changes: object) -> TrainingConfig:
    """Twelve steps of eight groups, logged every third."""
    values: dict[str, object] = {
        "steps": 12,
        "batch_size": 8,
        "micro_batch": 4,
        "learning_rate": 1e-2,
        "log_every": 3,
        "checkpoint_every": 4,
        "validate_every": 6,
        "sample_every": 6,
        "workers": 0,
        "trackers": [],
    }
    return TrainingConfig.model_validate({**values, **changes})


def run(task: ToyTask, folder: Path, **changes: object):
    chosen = config(**changes)
    return train(task, chosen, folder, recipe={"training": chosen.model_dump(mode="json")})


class _Kept:
    """A tensor that a graph holds for its backward pass."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


class ToyInParts(ToyTask):
    """The same loss, half of each micro-batch at a time; `left` counts what earlier parts' graphs still hold."""

    parts = 2

    def __init__(self) -> None:
        super().__init__()
        self.left: list[int] = []

    def losses(self, batch: dict[str, torch.Tensor]):
        kept: list[weakref.ref[_Kept]] = []

        def keep(tensor: torch.Tensor) -> _Kept:
            held = _Kept(tensor)
            if tensor.ndim > 1:  # an activation of the network
                kept.append(weakref.ref(held))
            return held

        for half in range(self.parts):
            self.left.append(sum(held() is not None for held in kept))
            part = {key: value.chunk(self.parts)[half] for key, value in batch.items()}
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda held: held.tensor):
                loss, metrics = self.loss(part)
            assert any(held() is not None for held in kept)
            yield loss, metrics
