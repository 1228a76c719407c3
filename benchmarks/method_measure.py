"""What a tiny model with or without a LoRA does on prompts and pairs that nobody learned from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from method_data import Size, evaluation_prompts, evaluation_seeds, make_data, read_json, sampling_of
from torch import nn

from palate.datasets.shapes.oracle import judge
from palate.t2i.gallery import load_lora
from palate.t2i.generate import generate
from palate.t2i.methods import SFT
from palate.t2i.models.checkpoint import find_checkpoint
from palate.t2i.models.model import TextToImageModel
from palate.t2i.prepare import prepare
from palate.t2i.recipe import DataConfig
from palate.t2i.task import AlignmentTask
from palate.training.disk import write_json

_ERROR_DRAWS = 4


def base(name: str, part: str, folder: Path, size: Size) -> dict[str, Any]:
    """The base model's measures, made once, and the size under which."""
    data = folder / "data" / name
    file = data / f"base-{part}.json"
    make_data(name, data, size)
    if not file.exists():
        write_json(file, measure(name, None, part, data, size))
    return {**read_json(file), "size": asdict(size)}


def measure(name: str, lora: str | None, part: str, data: Path, size: Size) -> dict[str, Any]:
    """The oracle's verdicts, how different a prompt's pictures are, and the errors on pairs that nobody learned from.

    right          one digit a picture, prompt after prompt, 1 where the picture shows what its prompt asks for
    diversity      mean over prompts of the mean distance of two pictures of the prompt: root mean square of the
                   difference of their pixels in [0, 1]
    winner_error, loser_error   mean denoising errors with the same times and noise for every model
    """
    model = TextToImageModel(find_checkpoint(name))
    pipeline = load_lora(model, lora)
    prompts = [prompt.text for prompt in evaluation_prompts(part, size.prompts) for _ in range(size.images)]
    seeds = evaluation_seeds(part, size).ravel().tolist()
    pictures = list(generate(model, prompts, seeds, sampling_of(model, size), pipeline))
    right = [judge(prompt, picture).correct for prompt, picture in zip(prompts, pictures, strict=True)]
    pixels = np.stack([np.asarray(picture, dtype=np.float32) / 255 for picture in pictures])
    pixels = pixels.reshape(size.prompts, size.images, -1)
    apart = [((pixels[:, i] - pixels[:, j]) ** 2).mean(axis=-1) ** 0.5 for i, j in combinations(range(size.images), 2)]
    return {
        "right": "".join("01"[verdict] for verdict in right),
        "diversity": round(float(np.mean(apart)), 5),
        **_errors(model, getattr(pipeline, model.family.network), data),
    }


@dataclass(frozen=True)
class _AsItIs:
    """A policy that is only asked."""

    network: nn.Module

    @contextmanager
    def reference(self) -> Iterator[nn.Module]:
        raise AssertionError("errors without a reference")
        yield self.network

    def save(self, folder: Path) -> None:
        raise AssertionError("nothing was trained")


def _errors(model: TextToImageModel, network: nn.Module, data: Path) -> dict[str, float]:
    # Of best and worst its metrics are the plain errors.
    method = replace(SFT().build(elements=1), candidates=2)
    config = DataConfig(path=str(data / "errors"), cache=str(data / "cache"))
    ready = prepare(model, config, method, seed=0, say=lambda line: None)
    drawn = ready.train.subset([i for _ in range(_ERROR_DRAWS) for i in range(len(ready.train))])
    task = AlignmentTask(model, _AsItIs(network), method, replace(ready, held_out=drawn), seed=0, micro_batch=30)
    numbers = task.validate()
    return {name: round(numbers[name], 6) for name in ("winner_error", "loser_error")}
