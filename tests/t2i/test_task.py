"""The alignment task: its loss is the paper's formula on the draws that it says, with and without the cache."""

import io
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from palate.datasets.group import Group
from palate.datasets.parquet import write_groups
from palate.diffusion import group_noise, group_times
from palate.t2i.align import make_policy, open_model
from palate.t2i.framing import View
from palate.t2i.prepare import prepare
from palate.t2i.recipe import Recipe
from palate.t2i.task import AlignmentTask
from palate.training.task import Visit


def quiet(line: str) -> None:
    pass


def recipe_for(path, groups, folder, **changes):
    values = {
        "model": {"path": path, "lora": {"rank": 4}},
        "data": {"path": str(groups), "cache": str(folder / "cache"), **changes.pop("data", {})},
        "method": {"name": "diffusion_dpo", "beta": 2000.0, **changes.pop("method", {})},
        "training": {"steps": 2, "batch_size": 4, "micro_batch": 4, "workers": 0, **changes.pop("training", {})},
        "output": {"folder": str(folder / "run")},
    }
    assert not changes
    return Recipe.model_validate(values)


def task_for(recipe) -> AlignmentTask:
    model = open_model(recipe.model, "no", "cpu")
    method = recipe.method.build(256)
    prepared = prepare(model, recipe.data, method, recipe.training.seed, quiet)
    return AlignmentTask(
        model=model,
        policy=make_policy(model, recipe.model, recipe.training.seed),
        method=method,
        prepared=prepared,
        seed=recipe.training.seed,
        caption_dropout=recipe.data.caption_dropout,
        variants=recipe.data.variants,
        micro_batch=4,
    )


def move(task) -> None:
    torch.manual_seed(0)
    for parameter in task.network.parameters():
        if parameter.requires_grad:
            parameter.data += 0.02 * torch.randn_like(parameter)


def batch_of(task, visits):
    return task.collate([task.item(visit) for visit in visits])


@pytest.fixture(params=["tiny-sdxl", "tiny-sd3"])
def path(request):
    return request.param


def test_loss_equals_the_papers_formula_by_hand(path, pairs, tmp_path):
    task = task_for(recipe_for(path, pairs, tmp_path))
    move(task)
    batch = batch_of(task, [Visit(5, 0), Visit(9, 3)])
    loss, metrics = task.loss(batch)

    process, positions = task.model.process, [5, 9]
    with torch.no_grad():
        clean = task._sample_posterior(batch)
        noise = group_noise(task.seed, positions, 2, clean.shape[2:])
        assert torch.equal(noise[:, 0], noise[:, 1])  # one noise for both pictures of a pair
        times = group_times(process, task.seed, positions)
        errors = {}
        for name in ("policy", "reference"):
            for side in range(2):
                conditions = {key: value[side::2] for key, value in batch["conditions"].items()}
                alpha, sigma = process.alpha_sigma(times, clean[:, side])
                noisy = alpha * clean[:, side] + sigma * noise[:, side]
                target = noise[:, side] - clean[:, side] if "sd3" in path else noise[:, side]
                if name == "policy":
                    predicted = task.model.predict(task.network, noisy, times, conditions)
                else:
                    with task.policy.reference() as network:
                        predicted = task.model.predict(network, noisy, times, conditions)
                errors[name, side] = (predicted - target).square().mean(dim=(1, 2, 3))
        inside = (errors["policy", 0] - errors["reference", 0]) - (errors["policy", 1] - errors["reference", 1])
        expected = -torch.log(torch.sigmoid(-0.5 * 2000 * inside)).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert metrics["temperature"].item() == 1000
    assert metrics["winner_error"].item() == pytest.approx(errors["policy", 0].mean().item(), rel=1e-5)


def test_at_the_start_the_loss_is_ln2(path, pairs, tmp_path):
    task = task_for(recipe_for(path, pairs, tmp_path))
    loss, metrics = task.loss(batch_of(task, [Visit(0, 0), Visit(1, 1)]))
    assert loss.item() == pytest.approx(0.693147, abs=1e-5)
    assert metrics["margin"].item() == 0


class Autocast(torch.nn.Module):
    """What accelerate makes of the trained network, and of it alone."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, *inputs, **named):
        with torch.autocast("cpu", torch.bfloat16):
            return self.network(*inputs, **named)


def test_policy_and_reference_have_one_precision(path, pairs, tmp_path):
    task = task_for(recipe_for(path, pairs, tmp_path))
    task.autocast = torch.bfloat16
    task.network = Autocast(task.network)
    loss, metrics = task.loss(batch_of(task, [Visit(0, 0), Visit(1, 1)]))
    assert metrics["winner_gain"].item() == metrics["loser_gain"].item() == 0
    assert loss.item() == pytest.approx(0.693147, abs=1e-5)
    in_float32 = task_for(recipe_for(path, pairs, tmp_path)).loss(batch_of(task, [Visit(0, 0), Visit(1, 1)]))[1]
    assert metrics["winner_error"].item() != in_float32["winner_error"].item()


def test_encoders_are_freed_before_the_network_is_loaded(path, pairs, tmp_path):
    recipe = recipe_for(path, pairs, tmp_path)
    model = open_model(recipe.model, "no", "cpu")
    loaded = set()
    free = model.free
    model.free = lambda part: (loaded.add(part) if part in model.__dict__ else None, free(part))
    prepare(model, recipe.data, recipe.method.build(256), 0, quiet)
    assert loaded == {"text", "vae"}
    assert not {"text", "vae", "network"} & model.__dict__.keys()


def test_another_precision_never_reads_this_ones_entries(path, pairs, tmp_path):
    recipe = recipe_for(path, pairs, tmp_path)
    latents, prompts = set(), set()
    for precision in ("no", "bf16"):
        model = open_model(recipe.model, precision, "cpu")
        keys = prepare(model, recipe.data, recipe.method.build(256), 0, quiet).source.keys
        latents.add(keys.latents("a", View()))
        prompts.add(keys.prompt("a"))
    assert len(prompts) == 2
    assert len(latents) == 2


def test_held_out_accuracy_is_over_the_groups_that_are_no_ties(path, tmp_path, shape_groups):
    groups = [replace(g, labels=(1.0, 1.0)) if i % 3 else g for i, g in enumerate(shape_groups(48))]
    write_groups(iter(groups), tmp_path / "set")
    task = task_for(recipe_for(path, tmp_path / "set", tmp_path, data={"ties": "keep", "holdout": 0.4}))
    move(task)
    apart = task.validate()
    task.micro_batch = len(task.prepared.held_out)
    at_once = task.validate()
    assert len(task.prepared.held_out) % 4
    assert apart == pytest.approx(at_once, rel=1e-3, abs=1e-4)


def test_with_and_without_the_cache_the_loss_trace_is_the_same(path, pairs, tmp_path):
    losses = []
    augmented = {"flip": True, "variants": 2, "caption_dropout": 0.5, "crop": "random"}
    for cache in (str(tmp_path / "cache"), None):
        task = task_for(recipe_for(path, pairs, tmp_path, data={"cache": cache, **augmented}))
        move(task)
        batches = [[Visit(4 * step + i, (5 * step + i) % 24) for i in range(4)] for step in range(4)]
        losses.append([task.loss(batch_of(task, visits))[0].item() for visits in batches])
    # Encoding in batches of another size leaves 1e-7 of a mean error, and beta / 2 makes that 1e-4 of the loss.
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert len({round(loss, 3) for loss in losses[0]}) == 4


def test_a_groups_loss_does_not_depend_on_its_batch(path, pairs, tmp_path):
    task = task_for(recipe_for(path, pairs, tmp_path))
    move(task)
    alone = [task.loss(batch_of(task, [visit]))[0].item() for visit in (Visit(3, 1), Visit(8, 2))]
    together = task.loss(batch_of(task, [Visit(3, 1), Visit(8, 2)]))[0].item()
    assert together == pytest.approx(sum(alone) / 2, rel=1e-4)


def test_captions_are_dropped_for_both_pictures_of_a_pair_or_neither(pairs, tmp_path):
    task = task_for(recipe_for("tiny-sdxl", pairs, tmp_path, data={"caption_dropout": 0.5}))
    dropped = []
    for position in range(40):
        pooled = task.item(Visit(position, 0))["conditions"]["pooled"]
        assert torch.equal(pooled[0], pooled[1])
        dropped.append(bool((pooled == 0).all()))
    assert 8 < sum(dropped) < 32


def test_every_visit_draws_a_fresh_latent_and_noise(pairs, tmp_path):
    task = task_for(recipe_for("tiny-sdxl", pairs, tmp_path))
    first, second = (task._sample_posterior(batch_of(task, [Visit(position, 0)])) for position in (0, 1))
    assert not torch.equal(first, second)
    again = task._sample_posterior(batch_of(task, [Visit(0, 0)]))
    assert torch.equal(first, again)


def test_preparation_encodes_nothing_twice(pairs, tmp_path, monkeypatch):
    recipe = recipe_for("tiny-sdxl", pairs, tmp_path)
    task_for(recipe)

    def refuse(*args):
        raise AssertionError("encoded again")

    monkeypatch.setattr("palate.t2i.models.model.TextToImageModel.encode_images", refuse)
    monkeypatch.setattr("palate.t2i.models.model.TextToImageModel.encode_prompts", refuse)
    task_for(recipe)


def test_a_damaged_cache_entry_is_encoded_again(pairs, tmp_path):
    recipe = recipe_for("tiny-sdxl", pairs, tmp_path)
    loss = task_for(recipe).loss(batch_of(task := task_for(recipe), [Visit(0, 0)]))[0].item()
    entry = task.prepared.source.cache.path(
        task.prepared.source.keys.latents(task.prepared.train[0].images[0], task.prepared.views(0, 0))
    )
    entry.write_bytes(entry.read_bytes()[:40])
    task = task_for(recipe)
    assert task.loss(batch_of(task, [Visit(0, 0)]))[0].item() == loss


def test_another_model_or_resolution_never_reads_this_ones_entries(pairs, tmp_path):
    a = task_for(recipe_for("tiny-sdxl", pairs, tmp_path)).prepared.source.keys
    b = task_for(recipe_for("tiny-sd3", pairs, tmp_path)).prepared.source.keys
    c = task_for(recipe_for("tiny-sdxl", pairs, tmp_path, data={"resolution": 64})).prepared.source.keys
    view = task_for(recipe_for("tiny-sdxl", pairs, tmp_path)).prepared.views(0, 0)
    assert len({keys.latents("x", view) for keys in (a, b, c)}) == 3


def test_held_out_numbers_are_the_same_every_time(pairs, tmp_path):
    task = task_for(recipe_for("tiny-sdxl", pairs, tmp_path, data={"holdout": 0.3, "caption_dropout": 0.5}))
    move(task)
    assert task.validate() == task.validate()
    assert task.validate()["margin"] != 0


@pytest.mark.parametrize("objective", ["dpo", "anchored_dpo", "ipo", "hinge"])
def test_every_objective_lowers_its_loss_on_both_families(path, objective, pairs, tmp_path):
    beta = {"ipo": 20.0}.get(objective, 2000.0)
    task = task_for(recipe_for(path, pairs, tmp_path, method={"objective": objective, "beta": beta}))
    batch = batch_of(task, [Visit(i, i) for i in range(4)])
    optimizer = torch.optim.AdamW([p for p in task.network.parameters() if p.requires_grad], 5e-4)
    losses = []
    for _ in range(6):
        loss, _ = task.loss(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    shutil.rmtree(tmp_path / "cache")


@pytest.mark.parametrize("cache", ["cache", None])
def test_each_picture_of_a_pair_keeps_its_own_size_and_crop(tmp_path, cache):
    """SDXL is told what a picture was; the pair shares noise and view, and no more than these."""
    pictures = []
    for size in [(64, 32), (32, 48)]:  # width, height
        pixels = np.random.default_rng(size[0]).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        pictures.append(file.getvalue())
    write_groups([Group("a", "a red circle", tuple(pictures), (1.0, 0.0))], tmp_path / "set")
    folder = cache and str(tmp_path / cache)
    task = task_for(recipe_for("tiny-sdxl", tmp_path / "set", tmp_path, data={"cache": folder, "resolution": 32}))
    batch = task.prepared.source.finish(batch_of(task, [Visit(0, 0)]))
    # Height and width as they were, top and left of the middle square of 32 pixels, height and width of that.
    assert batch["conditions"]["time_ids"].tolist() == [[32, 64, 0, 16, 32, 32], [48, 32, 8, 0, 32, 32]]


def test_a_held_out_group_is_at_the_start_of_the_run_however_far_it_is(pairs, tmp_path):
    """PNAPO's beta falls with the progress: held-out losses are compared under one."""
    task = task_for(recipe_for("tiny-sdxl", pairs, tmp_path, data={"holdout": 0.3}))
    task.visits = 10
    assert [float(task.item(Visit(position, 0))["progress"]) for position in (0, 5, 10, 99)] == [0, 0.5, 1, 1]
    seen = []
    loss = task.loss
    task.loss = lambda batch: seen.append(batch["progress"]) or loss(batch)
    task.validate()
    assert torch.cat(seen).tolist() == [0] * len(task.prepared.held_out)


def test_validation_draws_what_training_never_drew(pairs, tmp_path):
    task = task_for(recipe_for("tiny-sdxl", pairs, tmp_path, data={"holdout": 0.3}))
    seen = []
    item = task._item

    def watched(plan, visit, dropout=True):
        seen.append(visit.position)
        return item(plan, visit, dropout)

    task._item = watched
    task.validate()
    assert len(set(seen)) == len(task.prepared.held_out)
    assert min(seen) > 10**12  # more visits than any training makes
