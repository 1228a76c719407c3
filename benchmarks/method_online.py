"""A run of a method that learns from its own pictures: from the prompts of the data alone, judged by the oracle."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from method_run import BACKWARD, FORWARD, Job, Trained

from palate.datasets.parquet import read_groups
from palate.t2i.models.model import TextToImageModel
from palate.t2i.online.fit import align_online
from palate.t2i.online.recipe import OnlineRecipe
from palate.t2i.recipes import recipe_file
from palate.training.recipe import read_recipe


def train_online(job: Job, data: Path, folder: Path) -> Trained:
    """Train from prompts, as `palate train` does.

    What a step costs depends on how many pairs come about: one step is made first and counted, and the budget divided
    by it.
    """
    prompts = data / "prompts.txt"
    prompts.write_text("".join(f"{group.prompt}\n" for group in read_groups(data / "groups")), encoding="utf-8")
    with tempfile.TemporaryDirectory() as scratch, _counted() as trial:
        align_online(_recipe(job, prompts, Path(scratch) / "run", steps=1), say=lambda line: None)
    steps = max(1, job.evaluations // trial["evaluations"])
    recipe = _recipe(job, prompts, folder, steps)
    started, cpu = time.perf_counter(), time.process_time()
    with _counted() as counted:
        summary = align_online(recipe, say=lambda line: None)
    return Trained(
        lora=summary.final,
        steps=summary.step,
        groups_per_step=recipe.training.batch_size,
        counted=counted["evaluations"],
        seconds=time.perf_counter() - started,
        cpu_seconds=time.process_time() - cpu,
        peak_memory_gib=summary.training["peak_memory_gib"],
    )


def _recipe(job: Job, prompts: Path, folder: Path, steps: int) -> OnlineRecipe:
    values = read_recipe(recipe_file(f"{job.model}-{job.method['name']}"), [])
    values |= {"method": {**values["method"], **job.method}, "validation": {}}
    values["data"] = {"path": str(prompts), "cache": str(prompts.parent / "cache")}
    values["output"] = {"folder": str(folder), "kohya": False}
    values["training"] |= {
        "steps": steps,
        "checkpoint_every": steps,
        "log_every": 1,
        "validate_every": None,
        "sample_every": None,
        "warmup_steps": steps // 25,
        "workers": 0,
        "threads": 1,
        "trackers": [],
        "seed": job.seed,
        **job.training,
    }
    return OnlineRecipe.model_validate(values)


@contextmanager
def _counted() -> Iterator[dict[str, int]]:
    """Counts the latents that go through a network within, those with gradient for a backward pass too."""
    found, predict = {"evaluations": 0}, TextToImageModel.predict

    def counting(self: TextToImageModel, network: Any, noisy: Any, times: Any, conditions: Any) -> Any:
        found["evaluations"] += len(noisy) * (FORWARD + BACKWARD * torch.is_grad_enabled())
        return predict(self, network, noisy, times, conditions)

    TextToImageModel.predict = counting  # type: ignore[method-assign]
    try:
        yield found
    finally:
        TextToImageModel.predict = predict  # type: ignore[method-assign]
