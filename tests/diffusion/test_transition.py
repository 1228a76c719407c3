from __future__ import annotations

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

from palate.diffusion import log_density, rectified_flow, step, transition, variance_preserving
from palate.errors import UserError

EXACT = {"rtol": 1e-8, "atol": 1e-8}


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_step_equals_diffusers_ddim(prediction_type: str, eta: float, normal, stable_diffusion) -> None:
    config = {**stable_diffusion, "prediction_type": prediction_type, "clip_sample": False}
    scheduler, process = DDIMScheduler.from_config(config), variance_preserving(config)
    scheduler.set_timesteps(20)
    noisy, prediction, noise = normal(1, 4, 3, 3), normal(1, 4, 3, 3, seed=1), normal(1, 4, 3, 3, seed=2)
    for time, next_time in [(951, 901), (501, 451), (51, 1)]:
        mean, std = transition(process, prediction, noisy, torch.tensor([time]), torch.tensor([next_time]), eta)
        expected = scheduler.step(prediction, time, noisy, eta=eta, variance_noise=noise).prev_sample
        torch.testing.assert_close(mean + std * noise, expected, rtol=2e-5, atol=2e-5)


def test_deterministic_flow_step_is_eulers(normal) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(5)
    process, noisy, velocity = rectified_flow(shift=3.0), normal(1, 4, 2, 2).float(), normal(1, 4, 2, 2, seed=1).float()
    grid = process.timestep_grid(5)
    for index in range(5):
        ours = step(process, velocity, noisy, grid[index, None], grid[index + 1, None])
        theirs = scheduler.step(velocity, scheduler.timesteps[index], noisy).prev_sample
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_deterministic_step_moves_along_the_implied_noise(process, normal) -> None:
    """With a perfect prediction x_s is the same x0 and n at the level of s, and the step has no spread."""
    clean, noise, grid = normal(3, 4), normal(3, 4, seed=1), process.timestep_grid(4)
    times, next_times = grid[:3], grid[2:5]
    noisy, target = process.corrupt(clean, noise, times), process.target(clean, noise, times)
    mean, std = transition(process, target, noisy, times, next_times)
    torch.testing.assert_close(mean, process.corrupt(clean, noise, next_times), **EXACT)
    assert std.abs().max() == 0


@pytest.mark.parametrize("eta", [0.4, 1.0])
def test_a_perfect_step_keeps_the_marginal(eta: float, process, normal) -> None:
    """Given x0, x_s = mean + q z must be N(alpha_s x0, sigma_s^2), whatever eta: mean moves by direction * n."""
    grid = process.timestep_grid(6)
    times, next_times = grid[1:5], grid[2:6]
    clean, noise = normal(4, 1), torch.ones(4, 1, dtype=torch.float64)
    noisy, target = process.corrupt(clean, noise, times), process.target(clean, noise, times)
    mean, std = transition(process, target, noisy, times, next_times, eta)
    alpha, sigma = process.alpha_sigma(next_times, clean)
    torch.testing.assert_close((mean - alpha * clean).square() + std.square(), sigma.square(), **EXACT)


def test_ancestral_step_is_the_posterior_of_the_process(process, normal) -> None:
    """Bayes by hand: x_s ~ N(alpha_s x0, sigma_s^2), x_t | x_s ~ N(r x_s, sigma_t^2 - r^2 sigma_s^2), r = a_t / a_s."""
    grid = process.timestep_grid(6)
    times, next_times = grid[1:5], grid[2:6]
    clean, noise = normal(4, 3), normal(4, 3, seed=1)
    noisy, target = process.corrupt(clean, noise, times), process.target(clean, noise, times)
    alpha_t, sigma_t = process.alpha_sigma(times, clean)
    alpha_s, sigma_s = process.alpha_sigma(next_times, clean)
    r = alpha_t / alpha_s
    added = sigma_t**2 - (r * sigma_s) ** 2
    variance = 1 / (1 / sigma_s**2 + r**2 / added)
    expected = variance * (alpha_s * clean / sigma_s**2 + r * noisy / added)
    mean, std = transition(process, target, noisy, times, next_times, eta=1.0)
    torch.testing.assert_close(mean, expected, **EXACT)
    torch.testing.assert_close(std, variance.sqrt(), **EXACT)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_last_step_to_clean_is_the_clean_estimate(eta: float, process, normal) -> None:
    noisy, prediction, grid = normal(1, 4), normal(1, 4, seed=1), process.timestep_grid(4)
    mean, std = transition(process, prediction, noisy, grid[3:4], grid[4:5], eta)
    torch.testing.assert_close(mean, process.to_clean(prediction, noisy, grid[3:4]), **EXACT)
    assert std.item() == 0


def test_first_step_from_pure_noise_is_finite(make_process, normal) -> None:
    noisy, prediction = normal(2, 4), normal(2, 4, seed=1)
    for process, top in [(make_process("v_zero_snr"), 999), (make_process("flow"), 1000)]:
        mean, std = transition(process, prediction, noisy, torch.tensor([top] * 2), torch.tensor([top - 50, top]), 1.0)
        assert mean.isfinite().all()
        torch.testing.assert_close(std[0, 0], process.alpha_sigma(torch.tensor([top - 50]), noisy)[1][0, 0])
        assert std[1, 0] == 0


def test_drawn_step_has_the_transitions_moments(make_process) -> None:
    process, rows = make_process("epsilon"), 4
    noisy, prediction = torch.ones(rows, 20_000), torch.full((rows, 20_000), 0.5)
    times, next_times = torch.full((rows,), 501), torch.full((rows,), 451)
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1, 2, 0)]
    drawn = step(process, prediction, noisy, times, next_times, 1.0, generators)
    mean, std = transition(process, prediction, noisy, times, next_times, 1.0)
    torch.testing.assert_close(drawn.mean(1), mean[:, 0], rtol=0.02, atol=0.005)
    torch.testing.assert_close(drawn.std(1), std[:, 0], rtol=0.02, atol=0)
    assert torch.equal(drawn[0], drawn[3])
    assert not torch.equal(drawn[0], drawn[1])


def test_low_precision_states_are_stepped_in_float32(make_process, normal) -> None:
    process, noisy, prediction = make_process("epsilon"), normal(2, 64).half(), normal(2, 64, seed=1).half()
    times, next_times = torch.tensor([999, 500]), torch.tensor([949, 450])
    ours = step(process, prediction, noisy, times, next_times)
    assert ours.dtype == torch.float16
    exact = step(process, prediction.double(), noisy.double(), times, next_times)
    assert (ours == exact.half()).double().mean() > 0.98
    assert transition(process, prediction, noisy, times, next_times)[0].dtype == torch.float32


def test_log_density_is_the_normals(normal) -> None:
    sample, mean, std = normal(3, 4, 5), normal(3, 4, 5, seed=1), normal(3, 1, 1, seed=2).abs() + 0.1
    expected = torch.distributions.Normal(mean, std).log_prob(sample)
    torch.testing.assert_close(log_density(sample, mean, std), expected.mean((1, 2)), **EXACT)
    torch.testing.assert_close(log_density(sample, mean, std, "sum"), expected.sum((1, 2)), **EXACT)


def test_log_density_of_a_deterministic_step_is_a_users_error() -> None:
    with pytest.raises(UserError, match="eta > 0"):
        log_density(torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([[0.1], [0.0]]))


@pytest.mark.parametrize("eta", [-0.1, 1.1, float("nan")])
def test_eta_outside_its_range_is_a_users_error(eta: float, make_process) -> None:
    x, times = torch.zeros(1, 2), torch.tensor([500])
    with pytest.raises(UserError, match="between 0"):
        transition(make_process("epsilon"), x, x, times, times - 50, eta)


def test_stochastic_step_without_a_generator_is_a_users_error(make_process) -> None:
    x, times = torch.zeros(1, 2), torch.tensor([500])
    with pytest.raises(UserError, match="generator"):
        step(make_process("epsilon"), x, x, times, times - 50, 0.5)


def test_gradients_reach_the_prediction(process, normal) -> None:
    grid, noisy = process.timestep_grid(4), normal(1, 4)
    prediction = normal(1, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda y: transition(process, y, noisy, grid[1:2], grid[2:3], 1.0)[0], [prediction])
