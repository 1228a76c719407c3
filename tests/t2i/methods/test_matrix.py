"""Every method on every kind of network: it learns, it validates what it says, and it resumes to the same weights."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from palate.datasets.group import Group
from palate.datasets.parquet import write_groups
from palate.datasets.shapes.prompts import draw_prompts, draw_scene
from palate.datasets.shapes.world import render
from palate.t2i.align import align, make_policy, open_model, validation_numbers
from palate.t2i.methods import MethodConfig
from palate.t2i.prepare import prepare
from palate.t2i.recipe import Recipe
from palate.t2i.task import AlignmentTask
from palate.training import loop
from palate.training.task import Visit

METHODS = sorted(config.model_fields["name"].default for config in get_args(MethodConfig))
MODELS = ["tiny-sdxl", "tiny-sd3", "tiny-sd1"]


@pytest.fixture(scope="session")
def rankings(tmp_path_factory) -> Path:
    """16 groups of three pictures with all that any method asks for: captions, seeds and labels in [0, 1]."""
    rng = np.random.default_rng(0)
    prompts = draw_prompts(16, 0, held_out=False)
    groups = []
    for i, prompt in enumerate(prompts):
        scenes = [prompt, prompts[(i + 1) % 16], prompts[(i + 2) % 16]]
        candidates = []
        for scene in scenes:
            file = io.BytesIO()
            render(draw_scene(scene, rng)).save(file, "PNG")
            candidates.append(file.getvalue())
        groups.append(
            Group(
                key=f"g{i}",
                prompt=prompt.text,
                candidates=tuple(candidates),
                labels=(1.0, 0.5, 0.0),
                captions=tuple(scene.text for scene in scenes),
                seed=(3 * i, 3 * i + 1, 3 * i + 2),
            )
        )
    folder = tmp_path_factory.mktemp("rankings")
    write_groups(iter(groups), folder / "groups")
    return folder / "groups"


@pytest.fixture(scope="session")
def caches(tmp_path_factory):
    return {model: tmp_path_factory.mktemp(model) for model in MODELS}


@pytest.fixture(params=MODELS)
def model(request, tiny_sd1):
    return request.param, str(tiny_sd1) if request.param == "tiny-sd1" else request.param


@pytest.fixture
def recipe(model, rankings, caches, tmp_path):
    """`recipe(method, steps)`: the same run each time, in a folder of its own."""

    def make(method: str, steps: int, folder: str) -> Recipe:
        values = {
            "model": {"path": model[1], "lora": {"rank": 4}},
            "data": {"path": str(rankings), "cache": str(caches[model[0]]), "holdout": 0.25},
            "method": {"name": method},
            "training": {
                "steps": steps,
                "batch_size": 4,
                "micro_batch": 4,
                "learning_rate": 5e-4,
                "workers": 0,
                "log_every": 1,
                "validate_every": 1,
                "checkpoint_every": 1,
                "trackers": (),
            },
            "output": {"folder": str(tmp_path / folder), "kohya": False},
        }
        return Recipe.model_validate(values)

    return make


@pytest.mark.parametrize("method", METHODS)
def test_two_steps_lower_the_loss_on_the_same_draws(method, recipe):
    made = recipe(method, 2, "run")
    network = open_model(made.model, "no", "cpu")
    built = made.method.build(256)
    prepared = prepare(network, made.data, built, 0, lambda line: None)
    policy = make_policy(network, made.model, 0, built.needs_reference)
    task = AlignmentTask(network, policy, built, prepared, seed=0, micro_batch=4, visits=8)
    batch = task.collate([task.item(Visit(i, i)) for i in range(4)])
    optimizer = torch.optim.AdamW([p for p in task.network.parameters() if p.requires_grad], 1e-4)
    losses = []
    for _ in range(3):
        loss, metrics = task.loss(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        assert all(value.ndim == 0 and not value.requires_grad for value in metrics.values())
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[2] < losses[0], losses


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_breaks_off_after_a_step_ends_in_the_same_weights(method, recipe, tmp_path, monkeypatch):
    whole, part = recipe(method, 2, "whole"), recipe(method, 2, "part")
    align(whole, lambda line: None)

    def breaks(run, stream):
        if run.step == 1:
            raise RuntimeError("power cut")
        loop_step(run, stream)

    loop_step = loop._optimise
    monkeypatch.setattr(loop, "_optimise", breaks)
    with pytest.raises(RuntimeError, match="power cut"):
        align(part, lambda line: None)
    monkeypatch.setattr(loop, "_optimise", loop_step)
    align(part, lambda line: None)
    ends = [load_file(tmp_path / name / "final" / "pytorch_lora_weights.safetensors") for name in ("whole", "part")]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])
    rows = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    seen = {key.removeprefix("validation/") for row in rows for key in row if key.startswith("validation/")}
    assert seen == validation_numbers(whole.method.build(256))
