from __future__ import annotations

import math

import pytest
import torch

from palate.diffusion import Move, Pairs, pair_errors, transition_errors
from palate.errors import UserError


def brute_force_error(process, clean_hat, noise_hat, time, next_time, sample, eta: float) -> float:
    """-log N of one row, element by element in Python floats, from the levels alone."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = (
        tuple(float(level) for level in process.levels(torch.tensor([t]))) for t in (time, next_time)
    )
    q = eta * sigma_s / sigma_t * math.sqrt(sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2)
    terms = []
    for x0, n, x_s in zip(clean_hat.tolist(), noise_hat.tolist(), sample.tolist(), strict=True):
        mean = alpha_s * x0 + math.sqrt(sigma_s**2 - q**2) * n
        terms.append((x_s - mean) ** 2 / (2 * q**2) + math.log(q) + math.log(2 * math.pi) / 2)
    return sum(terms) / len(terms)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_error_is_the_gaussians_negative_log_density(eta: float, process, normal) -> None:
    grid = process.timestep_grid(6)
    times, next_times = grid[1:5], torch.cat([grid[2:5], grid[5:6]])
    clean, noise, sample = normal(4, 6), normal(4, 6, seed=1), normal(4, 6, seed=2)
    noisy, target = process.corrupt(clean, noise, times), process.target(clean, noise, times)
    errors = transition_errors(target, noisy, times, next_times, sample, process, eta)
    expected = [
        brute_force_error(process, clean[i], noise[i], times[i].item(), next_times[i].item(), sample[i], eta)
        for i in range(4)
    ]
    torch.testing.assert_close(errors, torch.tensor(expected, dtype=torch.float64), rtol=1e-8, atol=1e-8)


def test_half_precision_is_judged_in_float32(make_process, normal) -> None:
    x, times = normal(2, 8).bfloat16(), torch.tensor([501, 51])
    assert transition_errors(x, x, times, times - 50, x, make_process("epsilon"), 1.0).dtype == torch.float32


def test_deterministic_steps_are_a_users_error(make_process) -> None:
    x, times = torch.zeros(1, 2), torch.tensor([51])
    for next_times, eta in [(times - 50, 0.0), (torch.tensor([-1]), 1.0)]:
        with pytest.raises(UserError, match="deterministic"):
            transition_errors(x, x, times, next_times, x, make_process("epsilon"), eta)


def affine(weight: torch.Tensor, biases: torch.Tensor, seen: list):
    """A network of one weight whose conditions are one bias per row."""

    def predict(noisy: torch.Tensor, times: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        seen.append((noisy.shape[0], times.tolist(), rows.tolist()))
        return weight * noisy + biases[rows][:, None]

    return predict


@pytest.mark.parametrize("starts", [1, 2])
def test_pair_errors_are_each_sides_own(starts: int, make_process, normal) -> None:
    process, biases, seen = make_process("epsilon"), normal(5, seed=9), []
    weight = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    pairs = Pairs(
        rows=torch.tensor([4, 1, 2]),
        noisy=normal(3, starts, 6),
        times=torch.tensor([901, 501, 1]),
        next_times=torch.tensor([851, 451, 0]),
        samples=normal(3, 2, 6, seed=2),
    )
    errors = pair_errors(affine(weight, biases, seen), pairs, process, eta=0.8)
    expected = torch.empty(3, 2, dtype=torch.float64)
    for pair in range(3):
        time, next_time = pairs.times[pair].item(), pairs.next_times[pair].item()
        alpha, sigma = (float(level) for level in process.levels(torch.tensor([time])))
        for side in range(2):
            noisy = pairs.noisy[pair, min(side, starts - 1)]
            noise_hat = 0.7 * noisy + biases[pairs.rows[pair]]
            clean_hat = (noisy - sigma * noise_hat) / alpha
            expected[pair, side] = brute_force_error(
                process, clean_hat, noise_hat, time, next_time, pairs.samples[pair, side], 0.8
            )
    torch.testing.assert_close(errors, expected, rtol=1e-8, atol=1e-8)
    rows = {1: [4, 1, 2], 2: [4, 4, 1, 1, 2, 2]}[starts]
    assert seen == [(3 * starts, [t for t in (901, 501, 1) for _ in range(starts)], rows)]
    (slope,) = torch.autograd.grad(errors.sum(), weight)
    step = 1e-6
    with torch.no_grad():
        moved = [pair_errors(affine(weight + h, biases, seen), pairs, process, 0.8).sum() for h in (step, -step)]
    assert slope.item() == pytest.approx(float(moved[0] - moved[1]) / (2 * step), rel=1e-6)


def test_descent_on_the_margin_makes_the_winner_likelier(make_process, normal) -> None:
    """The sign: a lower error is a likelier transition, so gradient descent on w - l favours the winner."""
    process, weight = make_process("epsilon"), torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    pairs = Pairs(torch.tensor([0]), normal(1, 1, 6), torch.tensor([501]), torch.tensor([451]), normal(1, 2, 6, seed=1))
    predict = affine(weight, torch.zeros(1, dtype=torch.float64), [])
    before = pair_errors(predict, pairs, process, 1.0)
    (before[0, 0] - before[0, 1]).backward()
    with torch.no_grad():
        weight -= 1e-4 * weight.grad
        after = pair_errors(predict, pairs, process, 1.0)
    assert (after[0, 0] - after[0, 1]) < (before[0, 0] - before[0, 1])


def test_pairs_of_whole_trajectories_start_apart(normal) -> None:
    """D3PO: rows 0 and 3 won against 2 and 1."""
    noisy, sample, times = normal(4, 3), normal(4, 3, seed=1), torch.tensor([9, 9, 9, 9])
    pairs = Move(noisy, times, times - 1, sample).pairs(torch.tensor([0, 3]), torch.tensor([2, 1]))
    assert torch.equal(pairs.noisy, torch.stack([noisy[[0, 2]], noisy[[3, 1]]]))
    assert torch.equal(pairs.samples, torch.stack([sample[[0, 2]], sample[[3, 1]]]))
    assert pairs.rows.tolist() == [0, 3]
    assert (pairs.times.tolist(), pairs.next_times.tolist()) == ([9, 9], [8, 8])
