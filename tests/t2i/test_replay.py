"""The pool of earlier states: which one is drawn, and what a run that goes on finds."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from palate.diffusion import Stream, generator_for
from palate.errors import PalateError
from palate.t2i.replay import ReplayedPolicy


class Plain:
    """A policy of eight weights."""

    def __init__(self) -> None:
        self.network = nn.Linear(3, 2)

    def reference(self):
        return nullcontext(self.network)

    def save(self, folder) -> None:
        raise AssertionError


def weights(network: nn.Module) -> list[list[float]]:
    return [weight.flatten().tolist() for weight in network.parameters()]


def walk(policy: ReplayedPolicy, steps: range) -> dict[int, list[list[float]]]:
    """Train by random moves; the weights before each step."""
    states = {}
    for step in steps:
        states[step] = weights(policy.network)
        policy.at_step(step)
        for weight in policy.network.parameters():
            weight.data += torch.randn(weight.shape, generator=torch.Generator().manual_seed(step))
    return states


def test_the_reference_is_one_of_the_states_so_far_drawn_by_the_seed(tmp_path):
    policy = ReplayedPolicy(Plain(), tmp_path, seed=7, every=5)
    states, seen = {}, set()
    for step in range(60):
        states |= walk(policy, range(step, step + 1))
        drawn = 5 * int(torch.randint(step // 5 + 1, (1,), generator=generator_for(7, Stream.REFERENCE, step // 5)))
        seen.add(drawn)
        own = weights(policy.network)
        with policy.reference() as network:
            assert weights(network) == states[drawn]
        assert weights(policy.network) == own
    assert len(seen) > 5
    assert len(list(tmp_path.iterdir())) == 12


def test_a_run_that_goes_on_finds_the_same_reference(tmp_path):
    first = ReplayedPolicy(Plain(), tmp_path, seed=0, every=3)
    walk(first, range(11))
    again = ReplayedPolicy(Plain(), tmp_path, seed=0, every=3)
    again.at_step(10)
    with first.reference() as one, again.reference() as other:
        assert weights(one) == weights(other)


def test_until_the_first_step_the_policy_is_its_own_reference(tmp_path):
    policy = ReplayedPolicy(Plain(), tmp_path, seed=0, every=3)
    with policy.reference() as network:
        assert network is policy.network
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_the_policys_alone(training, tmp_path):
    """The reference has none, and the policy finds its own as it was."""
    plain = Plain()
    plain.network = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5)).train(training)
    policy = ReplayedPolicy(plain, tmp_path, seed=0, every=3)
    policy.at_step(0)
    with policy.reference() as network:
        assert [module.training for module in network.modules()] == [False] * 3
    assert [module.training for module in policy.network.modules()] == [training] * 3


@pytest.mark.parametrize("fault", ["gone", "cut", "another"])
def test_a_state_that_cannot_be_read_is_one_line(fault, tmp_path):
    ReplayedPolicy(Plain(), tmp_path, seed=0, every=30).at_step(0)
    file = tmp_path / "step-00000000.safetensors"
    if fault == "gone":
        file.unlink()
    elif fault == "cut":
        file.write_bytes(file.read_bytes()[:40])
    else:
        save_file(dict(list(load_file(file).items())[1:]), file)
    with pytest.raises(PalateError, match=r"step-00000000\.safetensors"):
        ReplayedPolicy(Plain(), tmp_path, seed=0, every=30).at_step(1)
