"""The losses are the papers' formulas on the steps that were sampled, by hand in float64, guidance included."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from diffusers import DDIMScheduler

from palate.diffusion import Stream, generator_for
from palate.t2i.online import stepwise

EPSILON = {"rel": 2e-3, "abs": 2e-6}


def levels(task, time: float) -> tuple[float, float]:
    """alpha and sigma, from the scheduler's numbers alone."""
    config = task.model.checkpoint.config("scheduler", "scheduler_config.json")
    if "FlowMatch" in config["_class_name"]:
        return 1 - time / 1000, time / 1000
    betas = {name: config[name] for name in ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps")}
    cumulated = float(DDIMScheduler(**betas).alphas_cumprod[int(time)])
    return math.sqrt(cumulated), math.sqrt(1 - cumulated)


def conditions_of(task, prompt: str) -> dict[str, torch.Tensor]:
    """Encoded afresh, not as the task had it from the cache."""
    known = task.__dict__.setdefault("encoded_afresh", {})
    if prompt not in known:
        known[prompt] = task.model.encode_prompts([prompt])
        if task.model.family.name == "sdxl":
            side = task.resolution
            known[prompt]["time_ids"] = torch.tensor([[side, side, 0, 0, side, side]], dtype=torch.float32)
    return known[prompt]


def guided(task, network, noisy, time: float, prompt: str, scale: float) -> torch.Tensor:
    """u + scale (c - u) of one latent `[C, h, w]`."""
    dtype = torch.int64 if task.model.process.prediction_type == "epsilon" else torch.float32
    c, u = (
        task.model.predict(network, noisy[None].float(), torch.tensor([time]).to(dtype), conditions_of(task, text))[0]
        for text in (prompt, "")
    )
    return u.double() + scale * (c.double() - u.double())


def mean_and_std(task, network, noisy, t: float, s: float, prompt: str, scale: float, eta: float):
    """Of x_s given x_t: DDIM's eq. 12 and 16, and the same for the straight path."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = levels(task, t), levels(task, s)
    answer, noisy = guided(task, network, noisy, t, prompt, scale), noisy.double()
    if task.model.process.prediction_type == "epsilon":
        noise, clean = answer, (noisy - sigma_t * answer) / alpha_t
    else:
        noise, clean = noisy + (1 - sigma_t) * answer, noisy - sigma_t * answer
    q = eta * sigma_s / sigma_t * math.sqrt(sigma_t**2 - (alpha_t / alpha_s * sigma_s) ** 2)
    return alpha_s * clean + math.sqrt(sigma_s**2 - q**2) * noise, q


def log_ratio(task, noisy, sample, t, s, prompt, scale, eta) -> float:
    """ln p_policy - ln p_reference of one transition."""
    values = []
    for name in ("policy", "reference"):
        if name == "policy":
            mean, std = mean_and_std(task, task.network, noisy, t, s, prompt, scale, eta)
        else:
            with task.policy.reference() as network:
                mean, std = mean_and_std(task, network, noisy, t, s, prompt, scale, eta)
        density = torch.distributions.Normal(mean, std).log_prob(sample.double())
        values.append(density.mean().item())
    return values[0] - values[1]


def clipped_loss(winner: float, loser: float, beta: float, sides: str) -> float:
    low, high = (0.9, 1.1) if sides == "both" else (0.0, 1.1)
    winner = min(max(math.exp(winner), low), high)
    low, high = (0.9, 1.1) if sides == "both" else (0.9, math.inf)
    loser = min(max(math.exp(loser), low), high)
    return math.log1p(math.exp(-beta * (math.log(winner) - math.log(loser))))


@pytest.mark.parametrize(("inner_steps", "sides"), [(0, "both"), (1, "improved")])
@torch.no_grad()
def test_spos_loss(path, inner_steps, sides, recipe_for, task_for, batch_of, monkeypatch):
    changes = {"inner_steps": inner_steps, "sides": sides, "eta": 0.9, "steps": 4, "threshold": 0.1}
    task = task_for(recipe_for(path, "spo", method=changes))
    seen = []
    engine = stepwise.branches

    def watched(*args, **settings):
        for branch in engine(*args, **settings):
            seen.append(branch)
            yield branch

    monkeypatch.setattr(stepwise, "branches", watched)
    batch = batch_of(task, [2, 0, 3])
    losses = [loss.item() for loss, _ in task.losses(batch)]
    assert len(losses) == task.parts == len(seen)
    for loss, branch in zip(losses, seen, strict=True):
        expected = 0.0
        for row, prompt in enumerate(batch["prompts"]):
            scores = branch.scores[row].tolist()
            gap = max(scores) - min(scores)
            if 1 / (1 + math.exp(-gap)) - 1 / (1 + math.exp(gap)) <= 0.1:
                continue
            ratios = []
            for candidate in (scores.index(max(scores)), scores.index(min(scores))):
                noisy = branch.noisy[row, min(candidate, branch.noisy.shape[1] - 1)]
                transition = (branch.times[row].item(), branch.next_times[row].item(), prompt, 3.0, 0.9)
                ratios.append(log_ratio(task, noisy, branch.candidates[row, candidate], *transition))
            expected += clipped_loss(*ratios, beta=10.0, sides=sides) / 3
        assert loss == pytest.approx(expected, **EPSILON)
    assert sum(losses) > 0


@torch.no_grad()
def test_d3pos_loss(path, recipe_for, task_for, batch_of):
    task = task_for(recipe_for(path, "d3po", method={"eta": 0.8, "steps": 4, "beta": 5.0}))
    batch = batch_of(task, [1, 3])
    losses = [loss.item() for loss, _ in task.losses(batch)]
    process, flow = task.model.process, task.model.process.prediction_type == "flow_prediction"
    grid = process.timestep_grid(4).clamp(min=0).tolist()
    grid = grid[:-1] if flow else grid  # a flow's clean end is no step to sample
    channels, factor = task.model.latent_shape
    shape = (channels, task.resolution // factor, task.resolution // factor)
    paths, expected = {}, 0.0
    for number, prompt in zip((1, 3), batch["prompts"], strict=True):
        for picture in range(3):
            generator = generator_for(task.seed, Stream.SAMPLING, number, picture)
            states = [torch.randn(shape, generator=generator)]
            for t, s in itertools.pairwise(grid):
                mean, std = mean_and_std(task, task.network, states[-1], t, s, prompt, 3.0, 0.8)
                states.append(mean + std * torch.randn(shape, generator=generator))
            paths[number, picture] = states
    scores = dict(zip(paths, task.judge.asked[0][3].tolist(), strict=True))
    learned = len(grid) - 1 - flow
    for number, prompt in zip((1, 3), batch["prompts"], strict=True):
        for place in range(learned):
            t, s = grid[place], grid[place + 1]
            ratios = {
                picture: log_ratio(task, *paths[number, picture][place : place + 2], t, s, prompt, 3.0, 0.8)
                for picture in range(3)
            }
            for a, b in itertools.combinations(range(3), 2):
                winner, loser = (a, b) if scores[number, a] > scores[number, b] else (b, a)
                expected += clipped_loss(ratios[winner], ratios[loser], 5.0, "both")
    assert len(losses) == learned
    # The steps come in an order of each prompt's own; their sum does not depend on it.
    assert sum(losses) == pytest.approx(expected / 6, rel=2e-3)


def test_at_the_start_every_pair_costs_ln2(path, recipe_for, task_for, batch_of):
    for method in ("spo", "d3po"):
        task = task_for(recipe_for(path, method), moved=0)
        loss, metrics = [*task.losses(batch_of(task, [0, 1]))][-1]
        assert metrics["margin"].item() == 0
        assert metrics["gradient_factor"].item() == pytest.approx(0.5)
        share = metrics["valid_pairs"].item()
        assert loss.item() == pytest.approx(share * 0.693147, abs=1e-5)


def test_only_the_improved_sides_clip_lets_a_ratio_come_back(recipe_for, task_for, batch_of):
    """A policy far from its reference: clipped on both sides hardly any step has a gradient."""
    shares, gradients = {}, {}
    for sides in ("both", "improved"):
        task = task_for(recipe_for("tiny-sdxl", "spo", method={"sides": sides}), moved=0.5)
        loss, metrics = task.loss(batch_of(task, [0, 1]))
        loss.backward()
        shares[sides] = metrics["clip_fraction"].item()
        weights = [p.grad.abs().max().item() for p in task.network.parameters() if p.grad is not None]
        gradients[sides] = max(weights)
    assert shares["both"] > 0.9
    assert shares["improved"] < shares["both"]
    assert gradients["improved"] > 10 * gradients["both"]
