"""What the methods have in common, on real tiny networks: one is another with a choice exchanged."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
import torch

from palate.datasets.parquet import write_groups
from palate.t2i.align import make_policy, open_model
from palate.t2i.methods import DCPO, DSPO, DiffusionDPO, InPO, MaPO, RankDPO
from palate.t2i.prepare import prepare
from palate.t2i.recipe import DataConfig, ModelConfig
from palate.t2i.task import AlignmentTask
from palate.training.task import Visit

POSITIONS = [Visit(5, 0), Visit(9, 3)]


@pytest.fixture(scope="module", params=["tiny-sdxl", "tiny-sd3"])
def lab(request, shape_groups, tmp_path_factory):
    """`task(method config, tuning="lora")` on pairs whose captions are all the group's prompt; moved off its start."""
    folder = tmp_path_factory.mktemp("lab")
    groups = [replace(group, captions=(group.prompt,) * 2) for group in shape_groups(6)]
    write_groups(iter(groups), folder / "groups")
    data = DataConfig(path=str(folder / "groups"), cache=str(folder / "cache"))

    def make(method, tuning="lora") -> AlignmentTask:
        config = ModelConfig(path=request.param, tuning=tuning)
        model = open_model(config, "no", "cpu")
        built = method.build(256)
        prepared = prepare(model, data, built, 0, lambda line: None)
        policy = make_policy(model, config, 0, built.needs_reference)
        torch.manual_seed(0)
        for parameter in policy.network.parameters():
            if parameter.requires_grad:
                parameter.data += 0.02 * torch.randn_like(parameter) * (parameter.std() if tuning == "full" else 1)
        return AlignmentTask(model, policy, built, prepared, seed=0, micro_batch=2, visits=100)

    return make


def loss_of(task):
    return task.loss(task.collate([task.item(visit) for visit in POSITIONS]))


def test_dcpo_with_equal_captions_is_dpo(lab):
    dual, plain = loss_of(lab(DCPO(beta=500))), loss_of(lab(DiffusionDPO(beta=500)))
    assert dual[0].item() == plain[0].item()
    assert dual[0].item() != pytest.approx(0.6931, abs=1e-3)


def test_rank_dpo_of_two_with_shared_noise_is_weighted_dpo(lab):
    """|2^1 - 2^0| |1 / ln 2 - 1 / ln 3| = 0.5325 times; its own noise makes another estimate of the same."""
    ranked = lab(RankDPO(beta=500))
    assert not ranked.method.corruption.shared_noise
    ranked.method = replace(ranked.method, corruption=DiffusionDPO().build(256).corruption)
    weight = abs(1 / torch.log(torch.tensor(2.0)) - 1 / torch.log(torch.tensor(3.0))).item()
    assert loss_of(ranked)[0].item() == pytest.approx(weight * loss_of(lab(DiffusionDPO(beta=500)))[0].item(), rel=1e-5)


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_mapo_never_touches_a_reference(lab, tuning):
    task = lab(MaPO(), tuning)

    @contextlib.contextmanager
    def never():
        raise AssertionError("the reference is asked")
        yield

    task.policy.reference = never
    loss, metrics = loss_of(task)
    assert loss.isfinite()
    assert "winner_gain" not in metrics
    if tuning == "full":
        assert task.policy._frozen is None  # no copy of the weights is kept


def test_the_drift_of_dspo_is_the_distance_of_the_two_predictions(lab):
    task = lab(DSPO(beta=0.5))
    seen = {}
    objective = task.method.objective

    def spy(policy, reference, labels, *, drift):
        seen.update(policy=policy, reference=reference, drift=drift)
        return objective(policy, reference, labels, drift=drift)

    task.method = replace(task.method, objective=spy)
    loss_of(task)
    assert seen["drift"].requires_grad
    assert not seen["reference"].requires_grad
    # The triangle: | |a| - |b| | <= |a - b| <= |a| + |b| for the root mean squares.
    a, b, c = (seen[name].detach().sqrt() for name in ("policy", "reference", "drift"))
    assert ((a - b).abs() <= c + 1e-6).all()
    assert (c <= a + b + 1e-6).all()
    assert (c > 0).all()


def test_the_safeguard_sees_the_overlap_of_the_residuals(lab):
    task = lab(DiffusionDPO(beta=500, safeguard=0.9))
    loss, metrics = loss_of(task)
    assert loss.item() == pytest.approx(loss_of(lab(DiffusionDPO(beta=500)))[0].item(), rel=1e-6)
    assert 0 <= metrics["safeguard"].item() <= 1
    assert task.method.over_batch


def test_inversion_asks_the_policy_that_is_trained_and_counts(lab):
    task = lab(InPO(steps=2, corrections=1, eta=0.0))
    calls = []
    predict = task.model.predict

    def counted(network, noisy, times, conditions):
        calls.append((network is task.network, torch.is_grad_enabled(), len(noisy)))
        return predict(network, noisy, times, conditions)

    task.model.predict = counted
    loss_of(task)
    inversions = calls[: task.method.corruption.calls]
    assert inversions == [(True, False, 4)] * 4
    assert len(calls) == 6  # the reference's and the policy's own


@pytest.mark.parametrize("method", [DiffusionDPO(beta=500), RankDPO(beta=500), InPO(beta=500)], ids=lambda m: m.name)
def test_full_tuning_learns(lab, method):
    task = lab(method, "full")
    batch = task.collate([task.item(visit) for visit in POSITIONS])
    optimizer = torch.optim.AdamW(task.network.parameters(), 2e-5)
    losses = []
    for _ in range(3):
        loss, _ = task.loss(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
