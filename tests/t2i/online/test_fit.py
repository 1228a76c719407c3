"""Every online method on every kind of network: it takes its steps, it resumes to the same weights, and it is saved."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

from palate.t2i.online.fit import align_online
from palate.training import loop

WEIGHTS = "final/pytorch_lora_weights.safetensors"


def quiet(line: str) -> None:
    pass


def rows_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("method", ["spo", "d3po"])
def test_two_steps_and_a_resume_that_ends_in_the_same_weights(
    path, method, recipe_for, red_judge, tmp_path, monkeypatch
):
    monkeypatch.setattr("palate.t2i.online.fit.open_judge", lambda *settings: red_judge())

    def recipe(name: str):
        output = {"output": {"folder": str(tmp_path / name)}, "data": {"holdout": 0.5}}
        return recipe_for(path, method, method={"guidance": 2.0, "sides": "improved"}, **output)

    align_online(recipe("whole"), quiet)

    def breaks(run, stream):
        if run.step == 1:
            raise RuntimeError("power cut")
        step(run, stream)

    step = loop._optimise
    monkeypatch.setattr(loop, "_optimise", breaks)
    with pytest.raises(RuntimeError, match="power cut"):
        align_online(recipe("part"), quiet)
    monkeypatch.setattr(loop, "_optimise", step)
    align_online(recipe("part"), quiet)
    ends = [load_file(tmp_path / name / WEIGHTS) for name in ("whole", "part")]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])
    rows = rows_of(tmp_path / "whole")
    steps = [row for row in rows if "loss" in row]
    assert [row["step"] for row in steps] == [1, 2]
    assert all(math.isfinite(row[name]) for row in steps for name in ("loss", "grad_norm", "reward", "valid_pairs"))
    assert max(row["grad_norm"] for row in steps) > 0
    assert max(weight.abs().max().item() for name, weight in ends[0].items() if "lora_B" in name) > 1e-5
    held_out = [row["validation/reward"] for row in rows if "validation/reward" in row]
    assert len(held_out) == 3
    assert all(map(math.isfinite, held_out))


@pytest.mark.parametrize("method", ["spo", "d3po"])
def test_every_weight_can_be_trained_and_the_result_is_a_pipeline(method, recipe_for, tiny_sd1, tmp_path):
    recipe = recipe_for(
        str(tiny_sd1),
        method,
        model={"tuning": "full"},
        training={"sample_every": 2},
        validation={"prompts": ("a photo of a triangle",)},
    )
    summary = align_online(recipe, quiet)
    assert summary.finished
    before, after = (
        DiffusionPipeline.from_pretrained(folder).unet.state_dict() for folder in (tiny_sd1, summary.final)
    )
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert len(list((tmp_path / "run" / "samples").glob("step-*.png"))) == 2
    card = (summary.final / "README.md").read_text()
    assert method in card
    assert "groups" in card


def test_another_number_of_steps(recipe_for, tmp_path, capsys):
    """Longer, it says what the schedule makes of it; shorter than it is, all stays as it was."""

    def start(steps: int) -> tuple[int, str]:
        summary = align_online(recipe_for("tiny-sdxl", "d3po", training={"steps": steps, "schedule": "linear"}), quiet)
        return summary.step, capsys.readouterr().out

    start(1)
    steps, out = start(2)
    assert steps == 2
    assert "training.steps was 1 and is 2: for training.schedule this is a run of 2 steps from here on" in out
    files = [tmp_path / "run/recipe.yaml", tmp_path / "run/final/README.md"]
    before = [file.read_text() for file in files]
    steps, out = start(1)
    assert steps == 2
    assert "is finished: 2 steps" in out
    assert "training.steps=1" in out
    assert [file.read_text() for file in files] == before
