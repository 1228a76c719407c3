"""What is counted of an online run beforehand is what its networks are asked."""

from __future__ import annotations

import pytest
import torch

from palate.t2i.memory import savings_of, training_bytes
from palate.t2i.methods import SPO
from palate.t2i.models.architectures import ARCHITECTURES
from palate.t2i.models.model import TextToImageModel, process_of
from palate.t2i.online.workload import online_workload
from palate.t2i.workload import Workload


@pytest.mark.parametrize(("name", "family"), [("sd1.5", "sd1"), ("sdxl", "sdxl")])
def test_spo_branches_in_sixteen_of_the_published_twenty_steps(name, family):
    assert SPO().build(family).parts(process_of(ARCHITECTURES[name].scheduler)) == 16


@pytest.mark.parametrize("method", ["spo", "d3po"])
@pytest.mark.parametrize("inner_steps", [0, 1])
def test_the_passes_are_those_of_a_step(path, method, inner_steps, recipe_for, task_for, batch_of, monkeypatch):
    changes = {"pictures": 2} if method == "d3po" else {"inner_steps": inner_steps}
    recipe = recipe_for(path, method, method=changes)
    task = task_for(recipe)
    asked, predict = {"without": 0, "with": 0}, TextToImageModel.predict

    def counting(self, network, noisy, times, conditions):
        asked["with" if torch.is_grad_enabled() else "without"] += len(noisy)
        return predict(self, network, noisy, times, conditions)

    monkeypatch.setattr(TextToImageModel, "predict", counting)
    metrics = [numbers for _, numbers in task.losses(batch_of(task, [0]))]
    assert metrics[-1]["valid_pairs"].item() == pytest.approx(1)  # every part has all its pairs
    work = online_workload(recipe, task.method)
    assert len(metrics) == work.parts
    learned = asked["with"]
    if inner_steps == 0 or method == "d3po":
        assert learned == work.parts * work.candidates
    assert learned <= work.parts * work.candidates
    rolled = work.parts * work.candidates * work.calls
    assert asked["without"] == pytest.approx(learned + rolled)  # the reference, and the rollout


@pytest.mark.parametrize("path", ["tiny-sdxl"])
def test_half_of_the_pictures_saves_what_so_many_less_take(path, recipe_for, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def work_of(method: str, **settings: int) -> Workload:
        recipe = recipe_for(path, method, method=settings)
        return online_workload(recipe, recipe.method.build("sdxl"))

    six, three = (work_of("d3po", pictures=pictures) for pictures in (6, 3))
    assert savings_of(six)["half of method.pictures"] == training_bytes(six, True) - training_bytes(three, True) > 0
    # Half of three would be no pair; and of SPO's k candidates two go through the policy with gradient.
    for work in (three, work_of("spo", k=8, inner_steps=1)):
        assert not [name for name in savings_of(work) if name.startswith("half")]
