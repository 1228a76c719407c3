from __future__ import annotations

import math

import pytest
import torch

from palate.diffusion import denoising_error, denoising_errors
from palate.diffusion.likelihood import epsilon_weight, residual_overlap, sigmoid_weight
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


def test_sigmoid_weight_by_hand(make_process) -> None:
    """A flow at s = 1/4 has lambda = 2 ln 3: sigmoid(b - lambda) = 1 / (1 + 9 e^-b); at s = 3/4 9 becomes 1/9."""
    flow = make_process("flow")
    weights = sigmoid_weight(flow, torch.tensor([250.0, 750.0]), bias=1.5)
    assert weights.tolist() == pytest.approx([1 / (1 + 9 * math.exp(-1.5)), 1 / (1 + math.exp(-1.5) / 9)])
    assert sigmoid_weight(flow, torch.tensor([500.0]), bias=0.0).item() == 0.5


def test_sigmoid_weight_of_stable_diffusion_goes_by_its_signal_to_noise_ratio(make_process) -> None:
    """sigmoid(1.5 - ln(abar / (1 - abar))) = 1 / (1 + e^-1.5 abar / (1 - abar)): most of it lies in the noise."""
    alpha_bar = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)
    times = torch.tensor([20, 400, 980])
    ratio = alpha_bar[times] / (1 - alpha_bar[times])
    for name in ("epsilon", "v_prediction"):
        weights = sigmoid_weight(make_process(name), times, bias=1.5)
        torch.testing.assert_close(weights, 1 / (1 + math.exp(-1.5) * ratio), rtol=1e-5, atol=0)
        assert (weights.diff() > 0).all()


def test_epsilon_weight_by_hand(make_process) -> None:
    """1 for epsilon, alpha^2 for v, (1 - s)^2 for flow, alpha^2 / sigma^2 for the clean sample."""
    alpha_bar = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)
    times = torch.tensor([20, 400, 980])
    at = alpha_bar[times]
    expected = {"epsilon": torch.ones_like(at), "v_prediction": at, "sample": at / (1 - at)}
    for name, weights in expected.items():
        torch.testing.assert_close(epsilon_weight(make_process(name), times), weights, rtol=1e-5, atol=0)
    flow = epsilon_weight(make_process("flow"), torch.tensor([0.0, 250.0, 750.0]))
    assert flow.tolist() == pytest.approx([1, 0.5625, 0.0625])


def test_epsilon_weight_makes_an_error_in_the_target_one_in_the_noise(process, normal) -> None:
    noisy, one, other = (normal(3, 8, seed=seed) for seed in range(3))
    times = process.timestep_grid(4)[1:4]
    apart = process.to_noise(one, noisy, times) - process.to_noise(other, noisy, times)
    expected = epsilon_weight(process, times) * denoising_error(one, other)
    torch.testing.assert_close(apart.square().mean(1), expected, rtol=1e-9, atol=0)


def test_overlap_by_hand() -> None:
    """Groups of three: the first's residual times itself and the last's, the middle one left out."""
    prediction = torch.tensor([[2.0, 1.0], [9.0, 9.0], [0.0, 4.0], [1.0, 1.0], [9.0, 9.0], [3.0, 0.0]])
    target = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0], [0.0, 3.0], [0.0, 0.0], [0.0, 0.0]])
    # (1, 1) with (-1, 3), and (1, -2) with (3, 0)
    assert residual_overlap(prediction, target, 3).tolist() == [[1.0, 1.0], [2.5, 1.5]]
    assert residual_overlap(prediction.requires_grad_(), target, 3, "sum").tolist() == [[2.0, 2.0], [5.0, 3.0]]
    assert not residual_overlap(prediction, target, 3).requires_grad
    weights = torch.tensor([2.0, 9.0, 3.0, 1.0, 9.0, 4.0])
    assert residual_overlap(prediction, target, 3, weights=weights).tolist() == [[4.0, 6.0], [2.5, 6.0]]


def test_overlap_keeps_float64_and_widens_what_is_narrower() -> None:
    prediction = torch.tensor([[1 + 1e-12], [1.0]], dtype=torch.float64)
    target = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    assert residual_overlap(prediction, target, 2)[0, 1].item() == pytest.approx(1e-12, rel=1e-3, abs=0)
    halves = residual_overlap(torch.full((2, 3), 300.0).half(), torch.zeros(2, 3).half(), 2)
    assert halves.dtype == torch.float32
    assert halves.tolist() == [[90_000, 90_000]]  # beyond half precision's range
