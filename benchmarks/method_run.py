"""One run of the comparison: a method trains a tiny model's LoRA, and what it learned is measured."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from method_data import Size, evaluation_prompts, evaluation_seeds, make_data, read_json, sampling_of
from torch import nn

from palate.datasets.shapes.oracle import judge
from palate.t2i.align import align
from palate.t2i.gallery import load_lora
from palate.t2i.generate import generate
from palate.t2i.methods import SFT
from palate.t2i.models.checkpoint import find_checkpoint
from palate.t2i.models.model import TextToImageModel
from palate.t2i.prepare import prepare
from palate.t2i.recipe import DataConfig, Recipe
from palate.t2i.recipes import recipe_file
from palate.t2i.task import AlignmentTask
from palate.training.disk import write_json
from palate.training.recipe import read_recipe

FORWARD, BACKWARD = 1, 2
"""Network evaluations, in the cost of a forward pass."""
_ERROR_DRAWS = 4


@dataclass(frozen=True)
class Job:
    """What decides a run's result.

    method      the recipe's `method` section
    training    of the recipe's `training` section, what the shipped recipe has otherwise
    form        of the data; see `method_data.FORMS`
    evaluations the budget: evaluations of the network by one picture, a backward pass for two
    pictures    that a step sees
    part        which held-out prompts measure it, `search` or `report`
    """

    name: str
    model: str
    method: Mapping[str, Any]
    training: Mapping[str, Any] = field(default_factory=dict)
    form: str = "groups"
    shuffled: bool = False
    seed: int = 0
    evaluations: int = 32_000
    pictures: int = 32
    part: str = "report"

    @property
    def key(self) -> str:
        """Its name in the record."""
        return "/".join([self.name, self.model, *(["shuffled"] if self.shuffled else []), str(self.seed)])


@dataclass(frozen=True)
class Trained:
    """A run's LoRA and what it took; `counted`: the network evaluations of its steps."""

    lora: Path
    steps: int
    groups_per_step: int
    counted: int
    seconds: float
    cpu_seconds: float
    peak_memory_gib: float


def train_offline(job: Job, data: Path, folder: Path) -> Trained:
    """Train from prepared groups, as `palate train` does."""
    recipe, per_group = offline_recipe(job, data, folder)
    started, cpu = time.perf_counter(), time.process_time()
    summary = align(recipe, say=lambda line: None)
    return Trained(
        lora=summary.final,
        steps=summary.step,
        groups_per_step=recipe.training.batch_size,
        counted=per_group * recipe.training.batch_size * summary.step,
        seconds=time.perf_counter() - started,
        cpu_seconds=time.process_time() - cpu,
        peak_memory_gib=summary.training["peak_memory_gib"],
    )


def offline_recipe(job: Job, data: Path, folder: Path) -> tuple[Recipe, int]:
    """The shipped recipe of the tiny model with the job's method, as many steps as its budget allows, and the network
    evaluations that a group costs."""
    values = read_recipe(recipe_file(f"{job.model}-dpo"), [])
    values |= {"method": dict(job.method), "validation": {}}
    values["data"] = {"path": str(data / (job.form + "-shuffled" * job.shuffled)), "cache": str(data / "cache")}
    values["output"] = {"folder": str(folder), "kohya": False}
    method = Recipe.model_validate(values).method.build(elements=1)  # counted only
    k = method.compared(len(method.pick({"winners": 1, "groups": 4}.get(job.form, 2))))
    per_group = k * (FORWARD + BACKWARD + FORWARD * (method.needs_reference + method.calls(k)))
    batch = job.pictures // k
    steps = job.evaluations // (per_group * batch)
    values["training"] |= {
        "steps": steps,
        "batch_size": batch,
        "micro_batch": batch,
        "warmup_steps": steps // 25,
        "checkpoint_every": steps,
        "log_every": 5,
        "validate_every": None,
        "sample_every": None,
        "workers": 0,
        "threads": 1,
        "trackers": [],
        "seed": job.seed,
        **job.training,
    }
    return Recipe.model_validate(values), per_group


def run(job: Job, folder: Path, size: Size, train: Any = train_offline) -> dict[str, Any]:
    """Train and measure. Returns the job's record; its run folder is left for a look."""
    data = folder / "data" / job.model
    out = folder / "runs" / f"{job.part}-{job.key.replace('/', '-')}-{time.time_ns():x}"
    trained: Trained = train(job, data, out)
    started = time.process_time()
    measured = measure(job.model, str(trained.lora), job.part, data, size)
    return {
        "method": dict(job.method),
        "training": dict(job.training),
        "form": job.form,
        "steps": trained.steps,
        "groups_per_step": trained.groups_per_step,
        "evaluations": trained.counted,
        "seconds": round(trained.seconds, 1),
        "cpu_seconds": round(trained.cpu_seconds, 1),
        "peak_memory_gib": round(trained.peak_memory_gib, 3),
        "measuring_seconds": round(time.process_time() - started, 1),
        **measured,
    }


def base(name: str, part: str, folder: Path, size: Size) -> dict[str, Any]:
    """The base model's measures, made once."""
    file = folder / "data" / name / f"base-{part}.json"
    if not file.exists():
        make_data(name, folder / "data" / name, size)
        write_json(file, measure(name, None, part, folder / "data" / name, size))
    return read_json(file)


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
    method = SFT().build(elements=1)  # its metrics are the plain errors of best and worst
    config = DataConfig(path=str(data / "errors"), cache=str(data / "cache"))
    ready = prepare(model, config, method, seed=0, say=lambda line: None)
    drawn = ready.train.subset([i for _ in range(_ERROR_DRAWS) for i in range(len(ready.train))])
    task = AlignmentTask(model, _AsItIs(network), method, replace(ready, held_out=drawn), seed=0, micro_batch=30)
    numbers = task.validate()
    return {name: round(numbers[name], 6) for name in ("winner_error", "loser_error")}
