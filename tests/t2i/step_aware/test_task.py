"""The step-aware task: its loss is the formula on the draws that it says, and its validation counts right answers."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from palate.datasets.parquet import write_groups
from palate.datasets.store import GroupStore
from palate.diffusion import group_noise, group_times
from palate.rewards.function import from_function
from palate.rewards.pickscore import open_pickscore
from palate.rewards.scorer import scorer_of
from palate.t2i.cache import TensorCache
from palate.t2i.plan import make_plan
from palate.t2i.step_aware.estimate import decode_pixels
from palate.t2i.step_aware.fit import _pairs
from palate.t2i.step_aware.labels import UNSCORED, _labels, label_by_reward
from palate.t2i.step_aware.task import _HELD_OUT_POSITIONS, accuracy_at
from palate.training.order import visit_at
from palate.training.task import Visit

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]


def batch_of(task, visits):
    return task.collate([task.item(visit) for visit in visits])


@pytest.mark.parametrize("path", ["tiny-sdxl", "tiny-sd3"])
@pytest.mark.parametrize("cached", [True, False])
def test_the_loss_is_the_formula(path, cached, recipe_for, task_for, start):
    data = {} if cached else {"cache": None}
    task = task_for(recipe_for(model={"path": path}, data=data, method={"guidance": 3.0}))
    visits = [Visit(5, 0), Visit(9, 3)]
    loss, metrics = task.loss(batch_of(task, visits))
    got = loss.item()

    model, process = task.model, task._times
    pickscore = open_pickscore(start)  # a fresh model scores as it does, at any time
    differences = []
    for visit in visits:
        entry = task.prepared.train[visit.index]
        item = task.prepared.source.item(entry, task.prepared.views(entry.row, 0), entry.prompts)
        encoded = task.prepared.source.finish(task.prepared.source.collate([item]))
        clean = encoded["mean"][0] + encoded["std"][0] * task.item(visit)["posterior"]
        time = group_times(process, task.seed, [visit.position])
        noise = group_noise(task.seed, [visit.position], 2, clean.shape[1:])[0]
        assert torch.equal(noise[0], noise[1])
        alpha, sigma = process.alpha_sigma(time, clean)
        noisy = alpha * clean + sigma * noise
        sizes = {"time_ids": torch.tensor([[32.0, 32, 0, 0, 32, 32]] * 2)} if path == "tiny-sdxl" else {}
        with torch.no_grad():
            c, u = (
                model.predict(model.network, noisy, time.expand(2), model.encode_prompts([text] * 2) | sizes)
                for text in (entry.prompt, "")
            )
        prediction = u + 3 * (c - u)
        estimate = noisy - sigma * prediction if path == "tiny-sd3" else (noisy - sigma * prediction) / alpha
        vae = model.vae
        with torch.no_grad():
            decoded = vae.decode(estimate / vae.config.scaling_factor + (vae.config.shift_factor or 0)).sample
        pixels = F.interpolate(decoded / 2 + 0.5, size=(64, 64), mode="bicubic").clamp(0, 1)
        scores = pickscore.score_pixels([entry.prompt] * 2, (pixels - MEAN) / STD)
        differences.append(float(scores[0] - scores[1]))
    assert task.prepared.train[0].labels == (1.0, 0.0)
    expected = [math.log1p(math.exp(-difference)) for difference in differences]
    assert got == pytest.approx(sum(expected) / 2, abs=1e-4)
    assert float(metrics["margin"]) == pytest.approx(sum(differences) / 2, abs=1e-4)
    assert float(metrics["accuracy"]) == sum(difference > 0 for difference in differences) / 2
    loss.backward()
    assert task.network.time.blocks[0].weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.network.parameters())


def test_a_tie_costs_nothing_where_the_scores_are_equal_and_pulls_them_together(recipe_for, task_for):
    task = task_for(recipe_for())
    batch = batch_of(task, [Visit(5, 0), Visit(9, 3)])
    decided, numbers = task.loss(batch)
    batch["labels"][:] = 0.5
    tied, none = task.loss(batch)
    encoded = task._encoded(batch)
    scores = task._scores(encoded, task._estimates(encoded, batch["times"]), batch["times"])
    p = scores.detach().double().softmax(-1)
    expected = (-0.5 * p.log().sum(-1) - math.log(2)).mean()
    assert 0 < tied.item() == pytest.approx(float(expected), rel=1e-3)
    assert math.isnan(none["accuracy"])
    assert not math.isnan(numbers["accuracy"])
    batch["mean"][:, 1], batch["std"][:, 1] = batch["mean"][:, 0], batch["std"][:, 0]
    batch["posterior"][:, 1] = batch["posterior"][:, 0]
    assert task.loss(batch)[0].item() == pytest.approx(0, abs=1e-5)
    assert decided.item() > 0


def test_each_pair_is_judged_at_its_own_time_for_its_own_prompt(recipe_for, task_for):
    task = task_for(recipe_for())
    with torch.no_grad():
        for parameter in task.network.time.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
        encoded = task._encoded(batch_of(task, [Visit(5, 0), Visit(9, 3), Visit(11, 4)]))
        times = encoded["times"]
        assert times.unique().numel() == 3
        estimates = task._estimates(encoded, times)
        scores = task._scores(encoded, estimates, times)
        pixels = task.judge.prepare_tensor(decode_pixels(task.model, estimates.flatten(0, 1)))
        prompts = [task.prepared.train[index].prompt for index in (0, 0, 3, 3, 4, 4)]
        wanted = task.judge.score_at(prompts, pixels, times.repeat_interleave(2)).view(3, 2)
        elsewhen = task.judge.score_at(prompts, pixels, times.flip(0).repeat_interleave(2)).view(3, 2)
    torch.testing.assert_close(scores, wanted, rtol=0, atol=1e-4)
    assert (scores - elsewhen)[0].abs().min() > 1e-2


def test_micro_batches_make_the_same_step_and_frequent_prompts_weigh_less(recipe_for, task_for, shape_groups, tmp_path):
    groups = shape_groups(6)
    repeated = [type(group)(**{**vars(group), "key": f"{group.key}-{i}"}) for i in range(2) for group in groups[:2]]
    write_groups([*repeated, *groups[2:]], tmp_path / "groups")
    task = task_for(recipe_for(data={"path": str(tmp_path / "groups")}, training={"batch_size": 8}))
    items = [task.item(visit_at(0, 8, place)) for place in range(8)]
    whole = task.loss(task.collate(items))[0]
    parts = [task.loss(task.collate(items[at : at + 2]))[0] for at in range(0, 8, 2)]
    assert whole.item() == pytest.approx(sum(part.item() for part in parts) / 4, rel=1e-5)
    # Six prompts share the step alike: those two that come twice give each of their pairs half.
    weights = sorted(float(item["weight"]) for item in items)
    assert weights == pytest.approx([8 / 12] * 4 + [8 / 6] * 4)
    alone = [task.loss(task.collate([{**item, "weight": torch.tensor(1.0)}]))[0].item() for item in items]
    weighed = [float(item["weight"]) * loss for item, loss in zip(items, alone, strict=True)]
    assert whole.item() == pytest.approx(sum(weighed) / 8, rel=1e-4)
    assert abs(whole.item() - sum(alone) / 8) > 1e-3


def test_validation_counts_pairs_at_each_time(recipe_for, task_for, start):
    task = task_for(recipe_for(data={"holdout": 0.3}, training={"micro_batch": 3}))
    numbers = task.validate()
    times = (0, 251, 501, 701, 951)
    assert list(numbers) == ["accuracy", *(accuracy_at(at) for at in times)]
    assert numbers == task.validate()
    plan = task.prepared.held_out
    assert 2 <= len(plan) <= 12
    pickscore, right = open_pickscore(start), []
    for number in range(len(plan)):
        item = task._item(plan, Visit(_HELD_OUT_POSITIONS + number, number))
        clean = item["source"]["mean"] + item["source"]["std"] * item["posterior"]
        pixels = F.interpolate(
            torch.stack([torch.from_numpy(np.asarray(p) / 255.0).permute(2, 0, 1) for p in task.model.decode(clean)]),
            size=(64, 64),
            mode="bicubic",
        )
        scores = pickscore.score_pixels([plan[number].prompt] * 2, ((pixels - MEAN) / STD).float())
        right.append(float(scores[0] > scores[1]))
    assert numbers["accuracy_t0"] == pytest.approx(sum(right) / len(right))
    assert numbers["accuracy"] == pytest.approx(sum(numbers[accuracy_at(at)] for at in times) / 5)
    assert task.prepared.train.table["prompt"].to_pylist() != plan.table["prompt"].to_pylist()


def test_two_pictures_tie_up_to_the_gap_itself():
    assert _labels(0.0, 1.0, 0.0) == [0.5, 0.5]
    assert _labels(0.2, 1.0, math.tanh(0.1)) == _labels(-0.2, 1.0, math.tanh(0.1)) == [0.5, 0.5]
    assert (_labels(0.21, 1.0, math.tanh(0.1)), _labels(-0.21, 1.0, math.tanh(0.1))) == ([1.0, 0.0], [0.0, 1.0])


def test_a_reward_labels_the_clean_pictures(pairs, tmp_path):
    from palate.datasets.skips import SkipLog

    store, asked = GroupStore(pairs), []
    plan = make_plan(store, _pairs(), "keep", SkipLog())
    prompts = [plan[number].prompt for number in range(4)]

    def score(prompt, picture):
        asked.append(prompt)
        if prompt == prompts[3]:
            raise ValueError("no opinion")
        first = {prompts[0]: 3.0, prompts[1]: -3.0, prompts[2]: 0.2}.get(prompt, 0.0)
        other = len(asked) % 2 == 0  # pictures come in the plan's order
        return 0.0 if other else first

    scorer = scorer_of(from_function("mine", score))
    cache = TensorCache(tmp_path)
    labelled = label_by_reward(plan, store, scorer, 1.0, 0.1, cache)
    # tanh(0.2 / 2) = 0.0997 is a tie at a gap of 0.1.
    assert [labelled[number].labels for number in range(3)] == [(1.0, 0.0), (0.0, 1.0), (0.5, 0.5)]
    assert (len(labelled), labelled.skipped[UNSCORED]) == (len(plan) - 1, 1)
    assert labelled.data_hash != plan.data_hash
    calls = len(asked)
    assert calls == 2 * len(plan)
    again = label_by_reward(plan, store, scorer, 2.0, 0.1, cache)
    assert again[2].labels == (1.0, 0.0)  # tanh(0.2) = 0.197
    assert set(asked[calls:]) == {prompts[3]}  # the rest is kept
