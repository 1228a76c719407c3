"""A run that goes on with another number of steps says what is laid over them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from palate.datasets.parquet import write_groups
from palate.t2i.align import say_lengthened
from palate.t2i.methods import PNAPO, DiffusionDPO
from palate.t2i.recipe import Recipe


def test_a_curriculum_and_a_schedule_say_so_once(train, shape_groups):
    graded = (replace(group, labels=(0.0, 1.0 + number)) for number, group in enumerate(shape_groups(6)))
    write_groups(graded, "graded")
    settings = ("data.path=graded", "data.order=curriculum", "training.schedule=cosine")
    first = train(*settings)
    assert (first.code, "training.steps was" in first.err) == (0, False)
    told = "was 2 and is 4: for training.schedule and data.order this is a run of 4 steps from here on"
    longer = train(*settings, "training.steps=4")
    assert longer.code == 0, longer.err
    assert told in longer.err
    assert "training.steps was" not in train(*settings, "training.steps=4").err


@pytest.mark.parametrize(
    ("method", "told"),
    [
        (DiffusionDPO(), []),
        (PNAPO(decay=0), []),
        (PNAPO(), ["training.steps was 9 and is 10: for method.decay this is a run of 10 steps from here on"]),
    ],
)
def test_a_method_whose_beta_falls_says_so(method, told):
    values = {"model": {"path": "sdxl"}, "data": {"path": "x"}, "output": {"folder": "x"}, "training": {"steps": 10}}
    recipe, lines = Recipe.model_validate({**values, "method": method.model_dump()}), []
    for stored in (None, {"training": {"steps": 10}}, {"training": {"steps": 9}}):
        say_lengthened(recipe, method.build(256), stored, lines.append)
    assert lines == told
