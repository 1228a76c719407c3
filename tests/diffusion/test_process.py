from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.diffusion import NoiseProcess, rectified_flow, variance_preserving

EXACT = {"rtol": 1e-9, "atol": 1e-9}


def some_times(process: NoiseProcess) -> torch.Tensor:
    return (
        torch.tensor([0.003, 0.1, 0.5, 0.98], dtype=torch.float64)
        .mul(process.num_train_timesteps)
        .to(torch.float32 if process.prediction_type == "flow_prediction" else torch.int64)
    )


def test_corruption_is_undone_by_a_perfect_prediction(process, normal) -> None:
    clean, noise, times = normal(4, 3, 5, 5), normal(4, 3, 5, 5, seed=1), some_times(process)
    noisy, target = process.corrupt(clean, noise, times), process.target(clean, noise, times)
    torch.testing.assert_close(process.to_clean(target, noisy, times), clean, **EXACT)
    torch.testing.assert_close(process.to_noise(target, noisy, times), noise, **EXACT)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["epsilon", "sample", "v_prediction", "flow_prediction"]),
    fraction=st.floats(0.001, 0.999),
    clean=st.floats(-50, 50),
    noise=st.floats(-6, 6),
)
def test_round_trip_holds_for_any_value(kind: str, fraction: float, clean: float, noise: float) -> None:
    if kind == "flow_prediction":
        process, times = rectified_flow(), torch.tensor([1000 * fraction])
    else:
        process = variance_preserving({"beta_schedule": "linear", "prediction_type": kind})
        times = torch.tensor([int(1000 * fraction)])
    x0, n = (torch.tensor([[value]], dtype=torch.float64) for value in (clean, noise))
    noisy, target = process.corrupt(x0, n, times), process.target(x0, n, times)
    torch.testing.assert_close(process.to_clean(target, noisy, times), x0, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(process.to_noise(target, noisy, times), n, rtol=1e-8, atol=1e-8)


def test_variance_preserving_errors_are_one_error_in_three_units(normal, make_process) -> None:
    """|n - n^|^2 = (a^2 / s^2) |x0 - x0^|^2 = a^2 |v - v^|^2."""
    clean, noise, guess = normal(4, 8), normal(4, 8, seed=1), normal(4, 8, seed=2)
    epsilon, velocity = make_process("epsilon"), make_process("v_prediction")
    times = torch.tensor([1, 250, 700, 999])
    alpha, sigma = epsilon.alpha_sigma(times, clean)
    noisy = epsilon.corrupt(clean, noise, times)
    noise_error = (noise - velocity.to_noise(guess, noisy, times)).square()
    clean_error = (clean - velocity.to_clean(guess, noisy, times)).square()
    velocity_error = (velocity.target(clean, noise, times) - guess).square()
    torch.testing.assert_close(noise_error, (alpha / sigma) ** 2 * clean_error, **EXACT)
    torch.testing.assert_close(noise_error, alpha**2 * velocity_error, **EXACT)


def test_flow_errors_are_one_error_in_three_units(normal) -> None:
    """n^ = x + (1 - s) v^ and x0^ = x - s v^, hence |n - n^|^2 = (1 - s)^2 |v - v^|^2."""
    process, times = rectified_flow(), torch.tensor([10.0, 300.0, 700.0, 990.0], dtype=torch.float64)
    clean, noise, guess = normal(4, 8), normal(4, 8, seed=1), normal(4, 8, seed=2)
    noisy, s = process.corrupt(clean, noise, times), (times / 1000)[:, None]
    torch.testing.assert_close(process.to_noise(guess, noisy, times), noisy + (1 - s) * guess, **EXACT)
    torch.testing.assert_close(process.to_clean(guess, noisy, times), noisy - s * guess, **EXACT)
    velocity_error = (process.target(clean, noise, times) - guess).square()
    noise_error = (noise - process.to_noise(guess, noisy, times)).square()
    torch.testing.assert_close(noise_error, (1 - s) ** 2 * velocity_error, **EXACT)


def test_targets_are_those_of_the_papers(make_process) -> None:
    clean, noise, times = torch.tensor([[2.0]]), torch.tensor([[3.0]]), torch.tensor([400])
    alpha, sigma = (float(level) for level in make_process("epsilon").alpha_sigma(times, clean))
    assert make_process("epsilon").target(clean, noise, times).item() == 3
    assert make_process("sample").target(clean, noise, times).item() == 2
    assert make_process("v_prediction").target(clean, noise, times).item() == pytest.approx(3 * alpha - 2 * sigma)
    assert make_process("flow").target(clean, noise, times).item() == 1


def test_clean_time_is_clean(process, normal) -> None:
    clean = normal(2, 4)
    times = torch.full((2,), process.clean_time)
    assert torch.equal(process.corrupt(clean, normal(2, 4, seed=1), times), clean)


def test_levels_broadcast_over_trailing_dimensions_in_the_callers_dtype(process) -> None:
    like = torch.zeros(3, 2, 4, 8, 8, dtype=torch.bfloat16)
    alpha, sigma = process.alpha_sigma(process.timestep_grid(3)[:3], like)
    assert alpha.shape == sigma.shape == (3, 1, 1, 1, 1)
    assert alpha.dtype == sigma.dtype == torch.bfloat16


def test_low_precision_samples_are_corrupted_in_float32(normal, make_process) -> None:
    """Levels rounded to bfloat16 would be off by up to 0.4 %; only the samples may be rounded."""
    process, times = make_process("epsilon"), torch.arange(0, 1000, 10)
    clean, noise = normal(100, 8).bfloat16(), normal(100, 8, seed=1).bfloat16()
    noisy = process.corrupt(clean, noise, times)
    assert noisy.dtype == torch.bfloat16
    assert torch.equal(noisy, process.corrupt(clean.double(), noise.double(), times).float().bfloat16())


@pytest.mark.parametrize("times_device", ["cpu", "meta"])
def test_results_are_on_the_samples_device_wherever_the_times_are(times_device: str, process) -> None:
    sample = torch.zeros(3, 4, device="meta")
    times = process.timestep_grid(3)[:3].to(times_device)
    for result in (process.corrupt, process.target, process.to_clean, process.to_noise):
        assert result(sample, sample, times).device.type == "meta"
    assert process.alpha_sigma(times, sample)[0].device.type == "meta"


def test_grid_descends_from_noise_to_clean(process) -> None:
    grid = process.timestep_grid(10)
    assert grid.shape == (11,)
    assert (grid.diff() < 0).all()
    assert grid[-1] == process.clean_time
    assert 0.85 * process.num_train_timesteps < grid[0] <= process.num_train_timesteps


def test_one_generator_per_row_gives_each_row_its_own_draw(process) -> None:
    def draw(seeds: list[int]) -> torch.Tensor:
        return process.draw_times(len(seeds), [torch.Generator().manual_seed(seed) for seed in seeds])

    together = draw([5, 6, 7])
    assert torch.equal(together, torch.cat([draw([5]), draw([6]), draw([7])]))
    assert torch.equal(draw([7, 5]), together[[2, 0]])
    assert len(process.draw_times(9, torch.Generator().manual_seed(0))) == 9
