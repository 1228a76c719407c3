"""What a visit of a group feeds the method: latents and conditions, from the cache or encoded on the spot.

Both sources give the same batch: means and deviations `[B, k, C, h, w]`, conditions `[B * k, ...]`, labels `[B, k]`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..datasets.digest import digest
from ..datasets.store import GroupStore
from ..errors import PalateError
from .batches import pictures_at_once
from .cache import TensorCache
from .framing import View, frame
from .models.family import Conditions, Framing
from .models.model import TextToImageModel
from .plan import Entry, picture_bytes


@dataclass(frozen=True)
class EncodingKeys:
    """The cache keys of one model under one setting."""

    autoencoder: str
    text_encoders: str
    resolution: int
    dtype: str

    def latents(self, image: str, view: View) -> str:
        """Of one picture in one view."""
        return digest("latents", self.autoencoder, str(self.resolution), self.dtype, view.key, image)

    def prompt(self, prompt: str) -> str:
        """Of one prompt."""
        return digest("prompt", self.text_encoders, prompt)


@dataclass
class CachedSource:
    """Reads what `prepare` has encoded; the items are made in data workers."""

    cache: TensorCache
    keys: EncodingKeys
    model: TextToImageModel

    def item(self, entry: Entry, view: View, prompts: Sequence[str]) -> dict[str, Any]:
        """Latents and conditions of one group."""
        latents = [self._read(self.keys.latents(image, view)) for image in entry.images]
        encoded = {prompt: self._read(self.keys.prompt(prompt)) for prompt in dict.fromkeys(prompts)}
        framings = [_framing(entry_["framing"]) for entry_ in latents]
        return {
            "mean": torch.stack([entry_["mean"] for entry_ in latents]).float(),
            "std": torch.stack([entry_["std"] for entry_ in latents]).float(),
            "conditions": _stacked([encoded[prompt] for prompt in prompts])
            | self.model.family.size_conditions(framings),
        }

    def collate(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch of items."""
        return {
            "mean": torch.stack([item["mean"] for item in items]),
            "std": torch.stack([item["std"] for item in items]),
            "conditions": _joined([item["conditions"] for item in items]),
        }

    def finish(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Nothing is left to do."""
        return batch

    def empty(self) -> Conditions:
        """The encoded empty prompt, one row, without the conditions that speak of sizes."""
        return _stacked([self._read(self.keys.prompt(""))])

    def _read(self, key: str) -> dict[str, Tensor]:
        tensors = self.cache.get(key)
        if tensors is None:
            raise PalateError(
                f"the cache entry {self.cache.path(key)} is gone or damaged; run the same command again and it is "
                "encoded anew"
            )
        return tensors


@dataclass
class LiveSource:
    """Encodes every visit anew: pictures are framed in data workers, encoded in the training process."""

    store: GroupStore
    model: TextToImageModel
    resolution: int

    def item(self, entry: Entry, view: View, prompts: Sequence[str]) -> dict[str, Any]:
        """Pixels and prompts of one group."""
        framed = [frame(data, self.resolution, view) for data in picture_bytes(self.store, entry)]
        return {"pixels": torch.stack([f[0] for f in framed]), "framings": [f[1] for f in framed], "prompts": prompts}

    def collate(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch of items."""
        return {
            "pixels": torch.stack([item["pixels"] for item in items]),
            "framings": [framing for item in items for framing in item["framings"]],
            "prompts": [prompt for item in items for prompt in item["prompts"]],
        }

    def finish(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Encode pixels, a few pictures at once, and prompts."""
        pixels = batch["pixels"]
        parts = pixels.flatten(0, 1).split(pictures_at_once(self.resolution))
        mean, std = map(torch.cat, zip(*map(self.model.encode_images, parts), strict=True))
        shape = (*pixels.shape[:2], *mean.shape[1:])
        sizes = self.model.family.size_conditions(batch["framings"])
        conditions = self.model.encode_prompts(batch["prompts"]) | {k: v.to(mean.device) for k, v in sizes.items()}
        return {**batch, "mean": mean.view(shape), "std": std.view(shape), "conditions": conditions}

    def empty(self) -> Conditions:
        """The encoded empty prompt, one row, without the conditions that speak of sizes."""
        return self.model.encode_prompts([""])


Source = CachedSource | LiveSource


def framing_tensor(framing: Framing) -> Tensor:
    """A framing as six numbers, for the cache."""
    return torch.tensor([*framing.original, *framing.corner, *framing.target], dtype=torch.int32)


def _framing(numbers: Tensor) -> Framing:
    a, b, c, d, e, f = numbers.tolist()
    return Framing((a, b), (c, d), (e, f))


def split_rows(conditions: Conditions) -> Iterator[Conditions]:
    """One row of conditions at a time, without the leading dimension."""
    count = len(next(iter(conditions.values())))
    return ({name: tensor[i] for name, tensor in conditions.items()} for i in range(count))


def _stacked(rows: list[Conditions]) -> Conditions:
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def _joined(items: list[Conditions]) -> Conditions:
    return {name: torch.cat([item[name] for item in items]) for name in items[0]}
