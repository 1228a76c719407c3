"""One line for every mistake, and nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml


def test_other_prompts_or_another_judge_are_another_run(recipe_for, prompt_file, train):
    recipe = recipe_for("tiny-sdxl", "d3po", training={"steps": 1, "validate_every": None})
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    assert train().code == 0
    prompt_file.write_text("a photo of a triangle")
    assert "holds a run on other data" in train().told
    assert "method.judge.name" in train("method.judge.name=aesthetic").told


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("data.path=nowhere.txt", "data.path: nowhere.txt does not exist; give a file of prompts"),
        ("data.crop=center", "unknown key `data.crop`"),
        ("method.k=1", "`method.k` is 1, but input should be greater than or equal to 2"),
        ("method.eta=0", "`method.eta` is 0"),
        ("method.threshold=1", "`method.threshold` is 1"),
        ("method.divert_start=5", "method.divert_start is 5, and of 5 sampling steps 5 can be learned from"),
        ("method.judge.name=pickscor", "there is no scorer 'pickscor'; did you mean pickscore"),
        ("method.judge.weights=nowhere", "weights"),
        ("data.holdout=0.0001", "would hold no prompt out of 4"),
        ("training.early_stop.metric=reward", "reward' is no validation number; there are none"),
        ("data.resolution=18", "18"),
        ("output.folder=prompts.txt", "prompts.txt"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(override, told, recipe_for, train):
    recipe = recipe_for("tiny-sdxl", "spo")
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    assert told in train(override).told
    assert not Path("run").exists()
    assert Path("prompts.txt").is_file()


@pytest.mark.parametrize(("name", "knob"), [("spo", "method.k"), ("d3po", "method.pictures")])
def test_lost_memory_is_told_with_what_takes_it(name, knob, recipe_for, train, monkeypatch):
    def lost(*_, **__):
        raise MemoryError

    recipe = recipe_for("tiny-sdxl", name)
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    monkeypatch.setattr("palate.t2i.online.task.OnlineTask._loss", lost)
    ended = train()
    assert ended.code == 1
    assert f"try a smaller {knob}, a smaller method.rollout_batch, training.micro_batch below 2" in ended.told


def test_a_judge_that_was_moved_is_the_same_one(recipe_for, train, tmp_path, monkeypatch):
    """What it holds is looked at, not where it lies."""
    recipe = recipe_for("tiny-sdxl", "d3po", training={"steps": 1, "validate_every": None})
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    assert train().code == 0
    assert "method.judge" not in train("method.judge.weights=elsewhere").told
