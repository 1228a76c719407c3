"""A run that goes on with another number of steps says what is laid over them; one that is done stays as it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from palate.datasets.parquet import write_groups


def test_a_curriculum_and_a_schedule_say_so_once(train, shape_groups):
    graded = (replace(group, labels=(0.0, 1.0 + number)) for number, group in enumerate(shape_groups(6)))
    write_groups(graded, "graded")
    settings = ("data.path=graded", "data.order=curriculum", "training.schedule=cosine")
    first = train(*settings)
    assert (first.code, "training.steps was" in first.out) == (0, False)
    told = "was 2 and is 4: for training.schedule and data.order this is a run of 4 steps from here on"
    longer = train(*settings, "training.steps=4")
    assert longer.code == 0, longer.err
    assert told in longer.out
    assert "run goes on after step 2\n" in longer.out
    assert "goes on" not in first.out
    assert "training.steps was" not in train(*settings, "training.steps=4").out


def test_a_finished_run_asked_for_fewer_steps_keeps_its_recipe_and_its_card(train):
    assert train("training.schedule=linear", "training.steps=3").code == 0
    files = [Path("run/recipe.yaml"), Path("run/final/README.md")]
    before = [file.read_text() for file in files]
    assert "steps: 3" in before[1]
    again = train("training.schedule=linear", "training.steps=2")
    assert again.code == 0, again.err
    assert "run is finished: 3 steps" in again.out
    assert "training.steps=2" in again.out
    assert "training.steps was" not in again.out
    assert [file.read_text() for file in files] == before
    assert train("training.schedule=linear", "training.steps=2", "output.kohya=true").code == 0
    assert Path("run/final/kohya.safetensors").is_file()  # what is made of the result may still be added
    assert "steps: 3" in files[1].read_text()
