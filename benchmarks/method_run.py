"""One run of the comparison: a method trains a tiny model's LoRA within its budget, and what it learned is measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from method_data import Size
from method_measure import measure
from method_settings import settings_of

from palate.t2i.align import align
from palate.t2i.recipe import Recipe
from palate.t2i.recipes import recipe_file
from palate.training.recipe import read_recipe

FORWARD, BACKWARD = 1, 2
"""Network evaluations, in the cost of a forward pass."""


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

    def frame(self, size: Size) -> dict[str, Any]:
        """Under what it runs: runs of another frame cannot be compared with it."""
        return {**asdict(size), "evaluations": self.evaluations, "pictures": self.pictures}


@dataclass(frozen=True)
class Trained:
    """A run's LoRA and what it took.

    settings  what decided its result, see `settings_of`
    counted   the network evaluations of its steps
    """

    lora: Path
    settings: dict[str, Any]
    steps: int
    groups_per_step: int
    counted: int
    seconds: float
    cpu_seconds: float
    peak_memory_gib: float


@dataclass(frozen=True)
class Way:
    """How methods of a kind are trained.

    settings  `(job)` -> what will decide a run's result, as far as it is known before; part of `Trained.settings`
    train     `(job, data folder, run folder) -> Trained`
    """

    settings: Callable[[Job], dict[str, Any]]
    train: Callable[[Job, Path, Path], Trained]


def train_offline(job: Job, data: Path, folder: Path) -> Trained:
    """Train from prepared groups, as `palate train` does."""
    recipe, per_group = offline_recipe(job, data, folder)
    started, cpu = time.perf_counter(), time.process_time()
    summary = align(recipe, say=lambda line: None)
    return Trained(
        lora=summary.final,
        settings=settings_of(recipe),
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
    k = method.compared(len(method.pick({"winners": 1, "stronger_winners": 1, "groups": 4}.get(job.form, 2))))
    per_group = round(k * (FORWARD + BACKWARD + FORWARD * (method.needs_reference + method.calls(k))))
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


OFFLINE = Way(lambda job: settings_of(offline_recipe(job, Path("data"), Path("run"))[0]), train_offline)


def run(job: Job, folder: Path, size: Size, way: Way = OFFLINE) -> dict[str, Any]:
    """Train and measure. Returns the job's record; its run folder is left for a look."""
    data = folder / "data" / job.model
    out = folder / "runs" / f"{job.part}-{job.key.replace('/', '-')}-{time.time_ns():x}"
    trained = way.train(job, data, out)
    started = time.process_time()
    measured = measure(job.model, str(trained.lora), job.part, data, size)
    return {
        "method": dict(job.method),
        "training": dict(job.training),
        "form": job.form,
        "settings": trained.settings,
        "frame": job.frame(size),
        "steps": trained.steps,
        "groups_per_step": trained.groups_per_step,
        "evaluations": trained.counted,
        "seconds": round(trained.seconds, 1),
        "cpu_seconds": round(trained.cpu_seconds, 1),
        "peak_memory_gib": round(trained.peak_memory_gib, 3),
        "measuring_seconds": round(time.process_time() - started, 1),
        **measured,
    }
