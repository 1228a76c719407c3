"""The draws of a visit and the corruption that they make, and where a step's numbers live."""

from contextlib import nullcontext
from functools import partial

import pytest
import torch

from palate.diffusion import rectified_flow, variance_preserving
from palate.objectives import dpo
from palate.t2i.method import Method, corrupt, draw
from palate.t2i.models.checkpoint import find_checkpoint
from palate.t2i.models.model import TextToImageModel
from palate.t2i.models.policy import LoraPolicy, LoraSettings
from palate.t2i.prepare import prepare
from palate.t2i.recipe import DataConfig
from palate.t2i.task import AlignmentTask
from palate.training.loader import to_device
from palate.training.task import Visit

SHAPE = (4, 8, 8)
FLOW = rectified_flow()
VP = variance_preserving({"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012})


def method(shared: bool = True) -> Method:
    return Method("test", objective=partial(dpo, beta=2000.0), shared_noise=shared)


def test_draws_follow_from_seed_and_position_alone():
    first, again = (draw(method(), FLOW, 3, 7, 2, SHAPE) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    for other in (draw(method(), FLOW, 3, 8, 2, SHAPE), draw(method(), FLOW, 4, 7, 2, SHAPE)):
        assert not any(torch.equal(first[name], other[name]) for name in first)


def test_a_shared_noise_is_drawn_once_and_is_the_first_of_separate_ones():
    shared, own = draw(method(True), VP, 0, 5, 3, SHAPE), draw(method(False), VP, 0, 5, 3, SHAPE)
    assert shared["noise"].shape == (1, *SHAPE)
    assert own["noise"].shape == shared["posterior"].shape == (3, *SHAPE)
    assert torch.equal(shared["noise"][0], own["noise"][0])
    assert not torch.equal(own["noise"][0], own["noise"][1])
    assert not torch.equal(shared["posterior"][0], shared["posterior"][1])


@pytest.mark.parametrize("process", [FLOW, VP], ids=["flow", "vp"])
@pytest.mark.parametrize("shared", [True, False])
def test_corruption_is_row_by_row_the_process(process, shared):
    drawn = [draw(method(shared), process, 0, position, 2, SHAPE) for position in (0, 1, 2)]
    noise, times = torch.stack([d["noise"] for d in drawn]), torch.cat([d["times"] for d in drawn])
    clean = torch.randn(3, 2, *SHAPE, generator=torch.Generator().manual_seed(0))
    noisy, target, each = corrupt(process, clean, noise, times)
    for group in range(3):
        for candidate in range(2):
            row, own = 2 * group + candidate, noise[group, 0 if shared else candidate][None]
            time = times[group : group + 1]
            assert each[row] == time
            assert torch.equal(noisy[row], process.corrupt(clean[group, candidate][None], own, time)[0])
            assert torch.equal(target[row], process.target(clean[group, candidate][None], own, time)[0])


@pytest.mark.parametrize("path", ["tiny-sdxl", "tiny-sd3"])
def test_a_step_leaves_no_number_on_the_host(path, pairs, tmp_path, monkeypatch):
    """On another device than the host's, a metric left behind could not be averaged with the rest."""
    model = TextToImageModel(find_checkpoint(path))
    build = Method("test", objective=partial(dpo, beta=2000.0), temperature=1000.0)
    ready = prepare(model, DataConfig(path=str(pairs), cache=str(tmp_path)), build, seed=0, say=lambda line: None)
    task = AlignmentTask(model, LoraPolicy(model.network, model.checkpoint, LoraSettings()), build, ready, seed=0)
    batch = task.collate([task.item(Visit(0, 0)), task.item(Visit(1, 1))])
    # The meta device has no autocast, which both the task and peft open.
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())
    monkeypatch.setattr(model, "predict", lambda network, noisy, times, conditions: noisy)
    loss, metrics = task.loss(to_device(batch, torch.device("meta")))
    assert {value.device.type for value in (loss, *metrics.values())} == {"meta"}
