"""The models whose pictures a set is made of, each with its settings, looked at before anything is drawn."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ....datasets.digest import digest
from ....datasets.provenance import provenance
from ....errors import UserError
from ...fingerprint import lora_fingerprint, whole_fingerprint
from ...models.architectures import find_architecture
from ...models.checkpoint import Checkpoint, find_checkpoint
from ...models.hub_ids import official
from ...models.model import TextToImageModel
from ...models.sampling import Sampling, sampling_for
from ...models.sides import require_side


@dataclass(frozen=True)
class Generator:
    """One model and how it draws; None leaves a choice to the family or the checkpoint.

    Args:
        path: see `find_checkpoint`.
        name: what settings and notices call it; "" for the path.
        images: pictures for each prompt.
        lora: LoRA weights: a folder, a file or a hub id.
    """

    path: str
    name: str = ""
    images: int = 1
    steps: int | None = None
    guidance: float | None = None
    resolution: int | None = None
    lora: str | None = None
    revision: str | None = None
    variant: str | None = None

    @property
    def called(self) -> str:
        """Its name, or its path where it has none."""
        return self.name or self.path

    @property
    def origin(self) -> str:
        """What a group says of where a picture comes from."""
        return provenance(official(self.path), self.revision, self.lora)


@dataclass(frozen=True, eq=False)
class OpenGenerator:
    """A generator that can be used here: its files are whole and its settings known. No weights are loaded.

    weights  a hash of all weights and settings files, the LoRA's among them
    """

    generator: Generator
    checkpoint: Checkpoint
    sampling: Sampling
    dtype: torch.dtype
    device: torch.device
    weights: str

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides its pictures beside prompt and seed, as JSON takes it; keys as in `palate generate`."""
        given = self.generator
        return {
            "model": official(given.path),
            "lora": given.lora,
            "revision": given.revision,
            "variant": given.variant,
            "weights": self.weights,
            "steps": self.sampling.steps,
            "guidance": self.sampling.guidance,
            "resolution": self.sampling.resolution,
            "dtype": str(self.dtype).removeprefix("torch."),
        }

    def load(self) -> TextToImageModel:
        """A fresh model; when it is let go, so are its weights."""
        return TextToImageModel(self.checkpoint, self.dtype, self.device)


def open_generators(
    generators: Sequence[Generator], batch_size: int, dtype: str, device: torch.device
) -> tuple[OpenGenerator, ...]:
    """Look at each generator's files and settings.

    Args:
        batch_size: pictures at once.
        dtype: float32, bfloat16 or float16; auto: bfloat16 on a GPU.

    Raises:
        UserError: there are none or two of one name, a checkpoint or LoRA is not there or not whole, or a setting
            cannot be used.
    """
    if not generators:
        raise UserError("there are no generators; name at least one model")
    names = [generator.called for generator in generators]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"two generators are called {twice}; give each a name of its own, such as a={twice},b={twice}")
    if dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise UserError(f"the dtype is {dtype!r}; it is auto, float32, bfloat16 or float16")
    auto = torch.bfloat16 if device.type == "cuda" else torch.float32
    chosen = auto if dtype == "auto" else getattr(torch, dtype)
    return tuple(_open(generator, batch_size, chosen, device) for generator in generators)


def _open(generator: Generator, batch_size: int, dtype: torch.dtype, device: torch.device) -> OpenGenerator:
    name = generator.called
    for setting, value in (("images", generator.images), ("steps", generator.steps)):
        if value is not None and value < 1:
            raise UserError(f"{name}: {setting} is {value}; it must be 1 or more")
    if generator.guidance is not None and not (math.isfinite(generator.guidance) and generator.guidance >= 0):
        raise UserError(f"{name}: guidance is {generator.guidance:g}; it must be a finite number, 0 or more")
    checkpoint = find_checkpoint(generator.path, revision=generator.revision, variant=generator.variant)
    checkpoint.require_whole()
    model = TextToImageModel(checkpoint, dtype, device)
    resolution = model.resolution if generator.resolution is None else generator.resolution
    require_side(
        find_architecture(generator.path, generator.revision), resolution, drawing=True, setting=f"{name}: resolution"
    )
    sampling = sampling_for(model, generator.steps, generator.guidance, resolution, batch_size)
    known = checkpoint.config("scheduler", "scheduler_config.json").get("num_train_timesteps", 1000)
    if sampling.steps > known:
        raise UserError(f"{name}: steps is {sampling.steps}, and it was trained on {known} noise levels; take fewer")
    if generator.lora is not None:
        _require_lora(generator.lora)
    # A path keeps its name when the weights behind it change.
    lora = lora_fingerprint(generator.lora) if generator.lora else ""
    weights = digest(whole_fingerprint(checkpoint), lora)
    return OpenGenerator(generator, checkpoint, sampling, dtype, device, weights)


def _require_lora(lora: str) -> None:
    """Refuse a path that leads nowhere before other generators have drawn for hours; a hub id is left to the hub."""
    on_hub = re.fullmatch(r"\w[\w.-]*/[\w.-]+", lora) and not lora.endswith(".safetensors")
    if not Path(lora).exists() and not on_hub:
        raise UserError(f"the LoRA {lora} does not exist; give a file, a folder or a hub id")
