from __future__ import annotations

import pytest
import torch

from palate.diffusion import denoising_error, denoising_errors
from palate.errors import UserError


def test_error_by_hand() -> None:
    prediction, target = torch.tensor([[[1.0, 2.0]], [[0.0, 0.0]]]), torch.tensor([[[0.0, 4.0]], [[3.0, 0.0]]])
    assert denoising_error(prediction, target).tolist() == [2.5, 4.5]
    assert denoising_error(prediction, target, reduction="sum").tolist() == [5.0, 9.0]


def test_a_perfect_network_has_no_error(process, normal) -> None:
    clean, noise = normal(3, 4, 2, 2), normal(3, 4, 2, 2, seed=1)
    times = process.timestep_grid(3)[:3]
    errors = denoising_errors(lambda noisy, t: process.target(clean, noise, t), process, clean, noise, times)
    assert errors.tolist() == [0, 0, 0]


def test_the_network_sees_the_corrupted_sample_and_its_times(process, normal) -> None:
    clean, noise, times = normal(3, 4), normal(3, 4, seed=1), process.timestep_grid(3)[:3]
    seen = {}

    def predict(noisy: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
        seen.update(noisy=noisy, times=asked)
        return process.target(clean, noise, asked) + torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64)

    errors = denoising_errors(predict, process, clean, noise, times, reduction="sum")
    torch.testing.assert_close(errors, torch.tensor([4.0, 16.0, 36.0], dtype=torch.float64))
    assert torch.equal(seen["noisy"], process.corrupt(clean, noise, times))
    assert torch.equal(seen["times"], times)


def test_the_expected_error_of_the_best_network_is_the_posterior_variance(process, normal, gaussian_network) -> None:
    """For x0 ~ N(0, c^2) and target p x0 + q n: Var[y | x_t] = c^2 (alpha q - sigma p)^2 / (alpha^2 c^2 + sigma^2)."""
    c, times = 0.5, process.timestep_grid(4)[1:4]
    clean, noise = c * normal(3, 40_000), normal(3, 40_000, seed=1)
    errors = denoising_errors(gaussian_network(process, 0.0, c), process, clean, noise, times)
    alpha, sigma = process.levels(times)
    p, q = process.target_weights(alpha, sigma)
    expected = c**2 * (alpha * q - sigma * p) ** 2 / (alpha**2 * c**2 + sigma**2)
    torch.testing.assert_close(errors, expected, rtol=0.03, atol=1e-6)


def test_low_precision_predictions_are_compared_in_float32() -> None:
    prediction, target = torch.full((1, 4096), 0.1).half(), torch.full((1, 4096), 0.1 + 2**-8).half()
    error = denoising_error(prediction, target, reduction="sum")
    assert error.dtype == torch.float32
    assert error.item() == pytest.approx(4096 * (target - prediction)[0, 0].double().item() ** 2, rel=1e-5)


def test_an_unknown_reduction_is_a_users_error() -> None:
    with pytest.raises(UserError, match="median"):
        denoising_error(torch.zeros(1, 2), torch.zeros(1, 2), reduction="median")  # type: ignore[arg-type]


def test_shapes_that_would_broadcast_are_refused() -> None:
    with pytest.raises(AssertionError, match="prediction"):
        denoising_error(torch.zeros(2, 8, 4), torch.zeros(2, 1, 4))
