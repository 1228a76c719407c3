"""SePPO's parts on real tiny networks: the reference that is an earlier state, and the rival that it draws."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from palate.diffusion import Stream, generator_for
from palate.t2i.align import make_policy, open_model
from palate.t2i.generate import generate
from palate.t2i.methods import SePPO
from palate.t2i.models.model import TextToImageModel
from palate.t2i.models.sampling import Sampling
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


def test_the_rival_is_what_the_reference_draws_as_pictures_are_drawn_and_encoded(lab):
    """By the checkpoint's sampler with guidance from the visit's seed, 8 bits, and through the autoencoder."""
    task = lab()
    task.policy.at_step(0)
    move(task, 0)
    batch = batch_of(task)
    batch = task.prepared.source.finish(batch)
    clean = batch["mean"]
    if "time_ids" in batch["conditions"]:
        batch["conditions"]["time_ids"][:, :2] = 64  # the data's pictures were larger once
    latents, conditions = task._with_rivals(task.method.rival, clean, batch)
    assert torch.equal(latents[:, 0], clean[:, 0])
    generators = [generator_for(0, Stream.SAMPLING, position) for position in (5, 9)]
    noise = torch.stack([torch.randn(clean.shape[2:], generator=generator) for generator in generators])
    seeds = [int(torch.randint(2**31, (1,), generator=generator)) for generator in generators]
    model = TextToImageModel(task.model.checkpoint)  # the weights that the run began from
    prompts = [task.prepared.train[number].prompt for number in (0, 3)]
    pictures = list(generate(model, prompts, seeds, Sampling(3, 2.0, 32)))
    pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2)
    with torch.no_grad():
        mean, std = model.encode_images(pixels.float() / 127.5 - 1)
    torch.testing.assert_close(latents[:, 1], mean + std * noise, atol=0.02, rtol=1e-2)  # a level of 255 may differ
    if "time_ids" in conditions:
        assert conditions["time_ids"].tolist() == [[64, 64, 0, 0, 32, 32], [32, 32, 0, 0, 32, 32]] * 2


def test_pictures_go_through_the_autoencoder_a_few_at_once(lab, monkeypatch):
    task = lab()
    batch = task.prepared.source.finish(task.collate([task.item(Visit(position, position)) for position in range(5)]))
    sizes, latents = {}, {}
    for way in ("encode", "decode"):
        whole = getattr(task.model.vae, way)

        def noted(rows, *args, whole=whole, way=way, **settings):
            sizes.setdefault(way, []).append(len(rows))
            return whole(rows, *args, **settings)

        monkeypatch.setattr(task.model.vae, way, noted)
    for count in (8, 2):
        monkeypatch.setattr("palate.t2i.rivals.pictures_at_once", lambda resolution, count=count: count)
        latents[count], _ = task._with_rivals(task.method.rival, batch["mean"], batch)
    assert sizes == {"encode": [5, 2, 2, 1], "decode": [5, 2, 2, 1]}
    torch.testing.assert_close(latents[2], latents[8], atol=0.02, rtol=1e-2)  # a level of 255 may differ


def test_the_log_calls_it_right_where_the_liked_picture_gains_more_than_the_rival(lab):
    task, seen = lab(), {}
    task.policy.at_step(0)
    move(task, 0)
    objective = task.method.objective

    def spy(policy, reference, labels):
        seen["gain"] = (reference - policy).detach()
        return objective(policy, reference, labels)

    task.method = replace(task.method, objective=spy)
    for index in range(3):
        _, metrics = task.loss(task.collate([task.item(Visit(index, index))]))
        assert metrics["accuracy"].item() == float(seen["gain"][0, 0] > seen["gain"][0, 1])


def test_the_cache_makes_no_difference(lab):
    cached, live = (task.loss(batch_of(task))[0].item() for task in (lab(), lab(cache=False)))
    assert cached == pytest.approx(live, rel=1e-4)
