"""A run that is called again with another number of steps: longer, shorter than it is, and what it says."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from palate.errors import UserError
from palate.training.interrupt import Interrupt
from palate.training.loop import train
from palate.training.refuse import refuse_early


def start(toy: ModuleType, folder: Path, steps: int, sections: dict[str, Any] | None = None, **changes: Any):
    config = toy.config(steps=steps, **changes)
    recipe = {"training": config.model_dump(mode="json"), **(sections or {})}
    return train(toy.ToyTask(), config, folder, recipe=recipe)


def test_a_finished_run_keeps_the_recipe_that_it_was_trained_by(toy, tmp_path, capsys):
    first = start(toy, tmp_path, 6)
    stored = (tmp_path / "recipe.yaml").read_text()
    capsys.readouterr()
    assert start(toy, tmp_path, 4) == first
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert "is finished: 6 steps" in out
    assert "training.steps=4" in out
    assert start(toy, tmp_path, 6, micro_batch=2) == first
    assert (tmp_path / "recipe.yaml").read_text() == stored


def test_a_run_that_stopped_early_keeps_it_too(toy, tmp_path):
    watched = {"early_stop": {"metric": "accuracy", "patience": 1, "mode": "min"}, "validate_every": 1}
    first = start(toy, tmp_path, 30, schedule="cosine", **watched)
    assert first.stopped_early
    assert start(toy, tmp_path, 20, schedule="cosine", **watched) == first
    assert yaml.safe_load((tmp_path / "recipe.yaml").read_text())["training"]["steps"] == 30


def test_a_run_does_not_go_back_to_a_step_that_it_has_passed(toy, tmp_path, monkeypatch):
    asked = iter(range(1, 1000))
    monkeypatch.setattr(Interrupt, "requested", property(lambda _: next(asked) >= 7, lambda *_: None))
    assert not start(toy, tmp_path, 12).finished
    monkeypatch.undo()
    stored = (tmp_path / "recipe.yaml").read_text()
    with pytest.raises(UserError, match=r"has done 7 steps, and training.steps is 5: give 7 to end it there"):
        start(toy, tmp_path, 5)
    with pytest.raises(UserError, match="has done 7 steps"):
        refuse_early(toy.config(steps=5), tmp_path)  # what runs of all kinds call first
    assert (tmp_path / "recipe.yaml").read_text() == stored
    assert start(toy, tmp_path, 7).step == 7
    assert start(toy, tmp_path, 12).step == 12


CURRICULUM, DECAY = {"data": {"order": "curriculum"}}, {"method": {"name": "pnapo", "decay": 0.5}}


@pytest.mark.parametrize(
    ("sections", "schedule", "moved"),
    [
        ({}, "constant", ""),
        ({"data": {"order": "random"}, "method": {"name": "pnapo", "decay": 0.0}}, "constant", ""),
        ({}, "cosine", "training.schedule"),
        (CURRICULUM, "linear", "training.schedule and data.order"),
        (CURRICULUM | DECAY, "constant", "data.order and method.decay"),
    ],
)
def test_a_run_that_goes_on_with_other_steps_says_once_what_they_move(toy, tmp_path, capsys, sections, schedule, moved):
    for steps in (4, 8, 8, 6):  # fewer than it has done: nothing goes on
        start(toy, tmp_path, steps, sections, schedule=schedule)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("training.steps was")]
    told = f"training.steps was 4 and is 8: for {moved} this is a run of 8 steps from here on"
    assert said == ([told] if moved else [])
