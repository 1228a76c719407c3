"""A run of a method that learns from its own pictures: from the prompts of the data alone, judged by the oracle."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from method_data import prompts_file
from method_run import BACKWARD, FORWARD, Job, Trained, Way
from method_settings import settings_of, without_steps

from palate.errors import UserError
from palate.t2i.models.model import TextToImageModel
from palate.t2i.online.fit import align_online
from palate.t2i.online.recipe import OnlineRecipe
from palate.t2i.recipes import recipe_file
from palate.training.recipe import read_recipe


def train_online(job: Job, data: Path, folder: Path) -> Trained:
    """Train from prompts, as `palate train` does, with a number of steps that the budget holds.

    What a step costs depends on how many pairs come about, and the learning rate falls with the steps: one step is made
    first and counted, and the budget divided by it; a run that costs more than the budget is made anew with as many
    steps as its own cost allows.
    """
    prompts = prompts_file(data)
    with tempfile.TemporaryDirectory() as scratch, _counted() as trial:
        align_online(online_recipe(job, prompts, Path(scratch) / "run", steps=1), say=lambda line: None)

    def attempt(steps: int) -> Trained:
        recipe = online_recipe(job, prompts, folder / f"{steps}-steps", steps)
        started, cpu = time.perf_counter(), time.process_time()
        with _counted() as counted:
            summary = align_online(recipe, say=lambda line: None)
        return Trained(
            lora=summary.final,
            settings=settings_of(recipe),
            steps=summary.step,
            groups_per_step=recipe.training.batch_size,
            counted=counted["evaluations"],
            seconds=time.perf_counter() - started,
            cpu_seconds=time.process_time() - cpu,
            peak_memory_gib=summary.training["peak_memory_gib"],
        )

    return within(job.evaluations, job.evaluations // trial["evaluations"], attempt)


def within(budget: int, steps: int, attempt: Callable[[int], Trained]) -> Trained:
    """The first attempt, from `steps` downwards, that costs no more than the budget.

    Raises UserError: the budget does not hold one step.
    """
    while steps:
        trained = attempt(steps)
        if trained.counted <= budget:
            return trained
        steps = steps * budget // trained.counted
    raise UserError(f"a budget of {budget:,} evaluations does not hold one step")


def online_recipe(job: Job, prompts: Path, folder: Path, steps: int) -> OnlineRecipe:
    """The shipped recipe of the tiny model and the method, with the job's settings and so many steps."""
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


ONLINE = Way(
    lambda job: without_steps(settings_of(online_recipe(job, prompts_file(Path("data")), Path("run"), steps=1))),
    train_online,
)


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
