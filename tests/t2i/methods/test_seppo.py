"""SePPO's parts on real tiny networks: the reference that is an earlier state, and the rival that it draws."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from palate.diffusion import Stream, generator_for
from palate.t2i.align import make_policy, open_model
from palate.t2i.methods import SePPO
from palate.t2i.prepare import prepare
from palate.t2i.recipe import DataConfig, ModelConfig
from palate.t2i.replay import ReplayedPolicy
from palate.t2i.task import AlignmentTask
from palate.training.task import Visit


@pytest.fixture(params=["tiny-sdxl", "tiny-sd3"])
def lab(request, pairs, tmp_path):
    """`task(tuning)`: SePPO with three sampling steps, guidance 2, and another reference every two steps."""

    def make(tuning: str = "lora", cache: bool = True, **settings) -> AlignmentTask:
        config = ModelConfig(path=request.param, tuning=tuning)
        model = open_model(config, "no", "cpu")
        built = SePPO(beta=200, every=2, steps=3, guidance=2, **settings).build(256)
        data = DataConfig(path=str(pairs), cache=str(tmp_path / "cache") if cache else None)
        prepared = prepare(model, data, built, 0, lambda line: None)
        policy = ReplayedPolicy(make_policy(model, config, 0, reference=False), tmp_path / tuning, seed=0, every=2)
        return AlignmentTask(model, policy, built, prepared, seed=0, micro_batch=2)

    return make


def move(task: AlignmentTask, step: int) -> None:
    torch.manual_seed(step)
    for parameter in task.network.parameters():
        if parameter.requires_grad:
            parameter.data += 0.02 * torch.randn_like(parameter)


def batch_of(task: AlignmentTask):
    return task.collate([task.item(Visit(5, 0)), task.item(Visit(9, 3))])


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_the_reference_is_the_network_as_it_was(lab, tuning):
    task = lab(tuning)
    noisy, times = torch.randn(4, *task._latent_shape), torch.full((4,), task.model.process.timestep_grid(3)[1])
    conditions = task.prepared.source.finish(batch_of(task))["conditions"]
    conditions = {name: tensor.repeat(2, *[1] * (tensor.ndim - 1)) for name, tensor in conditions.items()}

    def answer(network) -> torch.Tensor:
        with torch.no_grad():
            return task.model.predict(network, noisy, times, conditions)

    before = answer(task.network)
    task.policy.at_step(0)
    move(task, 0)
    moved = answer(task.network)
    with task.policy.reference() as network:
        assert torch.equal(answer(network), before)
    assert torch.equal(answer(task.network), moved)
    assert not torch.equal(moved, before)


def test_before_the_first_step_the_policy_is_its_own_reference(lab):
    task = lab()
    _, metrics = task.loss(batch_of(task))
    assert metrics["margin"].item() == 0


def test_the_rival_is_what_the_reference_draws_with_guidance(lab):
    """Three steps of DDIM or Euler by hand, guided, from the noise of the visit, by the weights of the reference."""
    task = lab()
    task.policy.at_step(0)
    move(task, 0)
    batch = batch_of(task)
    batch = task.prepared.source.finish(batch)
    clean = batch["mean"]
    latents, conditions = task._with_rivals(task.method.rival, clean, batch)
    assert torch.equal(latents[:, 0], clean[:, 0])
    model, process = task.model, task.model.process
    start = [generator_for(0, Stream.SAMPLING, position) for position in (5, 9)]
    state = torch.stack([torch.randn(clean.shape[2:], generator=generator) for generator in start])
    grid = process.timestep_grid(3)
    given = {name: tensor[1::2] for name, tensor in conditions.items()}
    empty = task.prepared.source.empty()
    if "time_ids" in given:
        assert given["time_ids"].tolist() == [[32, 32, 0, 0, 32, 32]] * 2
    without = {name: empty.get(name, tensor).expand_as(tensor) for name, tensor in given.items()}
    with torch.no_grad(), task.policy.reference() as network:
        for t, s in pairwise(grid):
            times = t.expand(2)
            with_prompt, alone = (model.predict(network, state, times, c) for c in (given, without))
            prediction = alone + 2 * (with_prompt - alone)
            (a, b), (c, d) = process.levels(t), process.levels(s)
            if process.prediction_type == "flow_prediction":
                state = state + (d - b) * prediction
                continue
            x0 = (state - b * prediction) / a
            state = c * x0 + d * prediction
    torch.testing.assert_close(latents[:, 1], state, atol=2e-4, rtol=1e-4)


def test_the_cache_makes_no_difference(lab):
    cached, live = (task.loss(batch_of(task))[0].item() for task in (lab(), lab(cache=False)))
    assert cached == pytest.approx(live, rel=1e-4)
