"""What is counted of an online run beforehand is what its networks are asked."""

from __future__ import annotations

import pytest
import torch

from palate.t2i.models.model import TextToImageModel
from palate.t2i.online.workload import online_workload


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
    assert metrics[-1]["valid_pairs"].item() == pytest.approx(len(metrics))  # every part has all its pairs
    work = online_workload(recipe, task.method)
    assert len(metrics) == work.parts
    learned = asked["with"]
    if inner_steps == 0 or method == "d3po":
        assert learned == work.parts * work.candidates
    assert learned <= work.parts * work.candidates
    rolled = work.parts * work.candidates * work.calls
    assert asked["without"] == pytest.approx(learned + rolled)  # the reference, and the rollout
