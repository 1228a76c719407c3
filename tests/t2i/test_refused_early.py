"""What training would refuse after hours of encoding, `palate train` refuses before anything is written."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from palate.datasets.parquet import write_groups
from palate.t2i.align import validation_numbers
from palate.t2i.methods import DiffusionDPO


def test_a_resolution_beyond_the_transformers_positions(train):
    ended = train("model.path=tiny-sd3", "data.resolution=640", "data.cache=cold")
    assert ended.code == 2
    assert "data.resolution is 640, but tiny-sd3 takes at most 128 pixels" in ended.told
    assert not Path("cold").exists()


def test_a_resolution_that_trains_but_cannot_be_drawn(train):
    drawing = ("validation.prompts=[a red circle]", "training.sample_every=2", "validation.steps=1")
    ended = train("data.resolution=20", "data.cache=cold", *drawing)
    assert ended.code == 2
    assert "data.resolution is 20, but tiny-sdxl draws multiples of 8 pixels" in ended.told
    assert not Path("cold").exists()
    ended = train("data.resolution=20")
    assert (ended.code, Path("run/summary.json").is_file()) == (0, True), ended.err


def test_an_output_folder_that_is_the_data(train, shape_groups):
    write_groups(iter(shape_groups(4)), "groups")
    before = sorted(Path("groups").iterdir())
    ended = train("data.path=groups", "output.folder=./groups")
    assert ended.code == 2
    assert "output.folder groups is data.path" in ended.told
    assert sorted(Path("groups").iterdir()) == before


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["data.cache=mine"], "data.cache: the folder mine cannot be made: mine is not a folder"),
        (["data.cache=mine/cache"], "data.cache: the folder mine/cache cannot be made: mine is not a folder"),
        (["output.folder=mine/run"], "the output folder mine/run cannot be made: mine is not a folder"),
        (["training.batch_size=7"], "training.batch_size 7 is not a multiple of 2, which is training.micro_batch 2"),
        (["training.precision=fp16"], "training.precision fp16 needs a GPU; use bf16 or no"),
        (["training.optimizer.name=adamw8bit"], "adamw8bit needs bitsandbytes, which is not installed"),
        (["training.trackers=[wandb]"], "training.trackers has wandb, which is not installed"),
        (["training.trackers=[tensorboard]"], "training.trackers has tensorboard, which is not installed"),
        (
            ["training.early_stop={metric: acuracy}", "training.validate_every=1", "data.holdout=0.3"],
            "training.early_stop.metric 'acuracy' is no validation number; there are accuracy, ",
        ),
        (
            ["training.early_stop={metric: accuracy}", "training.validate_every=1"],
            "there are none: the run has no validation data",
        ),
        (["training.optimizer.betas=[2, 3]"], "`training.optimizer.betas.0` is 2, but input should be less than 1"),
        (["method.beta=.inf"], "beta` is inf, but input should be a finite number"),
        (["training.learning_rate=.inf"], "`training.learning_rate` is inf, but input should be a finite number"),
        (["model.lora.alpha=.inf"], "`model.lora.alpha` is inf, but input should be a finite number"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_training_would_refuse_is_refused_before_anything_is_encoded(train, monkeypatch, overrides, told):
    for absent in ("bitsandbytes.optim", "wandb", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, absent, None)
    monkeypatch.setattr("palate.training.processes._only_cpu", lambda: True)
    monkeypatch.setattr("palate.t2i.align.prepare", lambda *_: pytest.fail("prepared"))
    Path("mine").write_text("mine")
    ended = train("data.cache=cold", *overrides)
    assert ended.code == 2
    assert told in ended.told
    assert Path("mine").read_text() == "mine"
    assert not Path("run").exists()
    assert not Path("cold").exists()


@pytest.mark.parametrize("objective", ["dpo", "anchored_dpo", "ipo", "hinge"])
def test_the_numbers_that_early_stopping_may_watch_are_those_of_a_validation(train, objective):
    watched = ["training.early_stop={metric: loss, mode: min}", "training.validate_every=1", "data.holdout=0.3"]
    ended = train(f"method.objective={objective}", *watched)
    assert (ended.code, Path("run/summary.json").is_file()) == (0, True), ended.err
    lines = map(json.loads, Path("run/metrics.jsonl").read_text().splitlines())
    seen = {key.removeprefix("validation/") for line in lines for key in line if key.startswith("validation/")}
    known = validation_numbers(DiffusionDPO(objective=objective).build(elements=4))
    assert seen == known


def test_a_curriculum_is_one_key(train, shape_groups):
    ended = train("data.order=curriculum", "data.cache=cold")
    assert ended.code == 2
    assert "the labels of all 24 groups differ by 1: none is easier than another" in ended.told
    assert not Path("cold").exists() or not any(Path("cold").rglob("*.safetensors"))
    graded = [replace(group, labels=(i / 10, 0.0)) for i, group in enumerate(shape_groups(8), 1)]
    write_groups(iter(graded), "graded")
    ended = train("data.order=curriculum", "data.path=graded")
    assert (ended.code, Path("run/summary.json").is_file()) == (0, True), ended.err
    assert train("data.order=hard").code == 2
