from __future__ import annotations

import pytest
import torch

from palate.diffusion import descend, implied_noise, inversion_grid, invert


def own_times(process, fractions: list[float]) -> torch.Tensor:
    times = torch.tensor(fractions, dtype=torch.float64) * (process.num_train_timesteps - 1)
    return times.float() if process.prediction_type == "flow_prediction" else times.round().long()


def there_and_back(predict, process, clean, times, steps: int, corrections: int) -> torch.Tensor:
    noisy = invert(predict, process, clean, times, steps, corrections)
    return descend(predict, process, noisy, inversion_grid(process, times, steps).flip(1))


def test_grid_climbs_from_clean_to_exactly_each_rows_time(process) -> None:
    times = own_times(process, [0.0131, 0.333, 1.0])
    grid = inversion_grid(process, times, 10)
    assert grid.shape == (3, 11)
    assert grid.dtype == times.dtype
    assert torch.equal(grid[:, -1], times)
    assert (grid.diff(dim=1) > 0).all() or process.num_train_timesteps == 500  # 7 timesteps for 10 steps repeat some
    assert (grid.diff(dim=1) >= 0).all()
    assert (grid[:, 0] == (0 if process.prediction_type == "sample" else process.clean_time)).all()
    assert (inversion_grid(process, times, 4, start=5)[:, 0] == 5).all()


def test_grid_lands_exactly_where_rounding_would_miss(make_process) -> None:
    times = 1000 * torch.rand(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(inversion_grid(make_process("flow"), times, 7, start=999)[:, -1], times)


def test_latent_lands_on_each_rows_own_level(process, normal) -> None:
    """A network that knows x0 and n must find x_t = alpha x0 + sigma n, whatever the row's time."""
    clean, noise, times = normal(3, 8), normal(3, 8, seed=1), own_times(process, [0.0071, 0.5, 1.0])
    if process.prediction_type == "sample":
        pytest.skip("a known x0 says nothing of the noise")
    noisy = invert(lambda x, t: process.target(clean, noise, t), process, clean, times, steps=7, corrections=1)
    torch.testing.assert_close(noisy, process.corrupt(clean, noise, times), rtol=1e-9, atol=1e-9)


def test_round_trip_is_exact_where_theory_says_so(make_process, normal) -> None:
    """Constant noise (VP) and constant velocity (flow) make the deterministic path a straight line."""
    clean, answer = normal(4, 8), normal(4, 8, seed=1)
    for name, steps in [("epsilon", 1), ("epsilon", 10), ("flow", 1), ("flow", 10)]:
        process = make_process(name)
        times = own_times(process, [0.003, 0.25, 0.7, 1.0])
        returned = there_and_back(lambda x, t: answer, process, clean, times, steps, corrections=0)
        torch.testing.assert_close(returned, clean, rtol=1e-10, atol=1e-10)


def test_corrections_make_inversion_then_sampling_return_the_latent(process, normal, gaussian_network) -> None:
    predict = gaussian_network(process, 0.3, 0.8)
    clean = 0.3 + 0.8 * normal(4, 8)
    times = own_times(process, [0.1, 0.4, 0.6, 0.9])

    def error(corrections: int) -> float:
        returned = there_and_back(predict, process, clean, times, 20, corrections)
        return float((returned - clean).abs().max())

    if process.prediction_type == "sample":
        pytest.skip("starts at timestep 0 and ends there; see the test below")
    assert error(1) < 0.5 * error(0)
    assert error(40) < 1e-6


def test_plain_inversion_returns_the_latent_as_steps_shrink(make_process, normal, gaussian_network) -> None:
    for name in ("epsilon", "v_prediction", "flow"):
        process = make_process(name)
        predict, clean = gaussian_network(process, 0.3, 0.8), 0.3 + 0.8 * normal(4, 8)
        times = own_times(process, [0.2, 0.4, 0.6, 0.9])
        coarse, fine = (
            float((there_and_back(predict, process, clean, times, steps, 0) - clean).abs().max()) for steps in (10, 80)
        )
        assert fine < coarse / 5, name
        assert fine < 0.06, name


def test_inversion_converges_to_the_probability_flow(make_process, normal, gaussian_network) -> None:
    """For x0 ~ N(m, c^2) the flow keeps (x_t - alpha m) / sqrt(alpha^2 c^2 + sigma^2) constant."""
    for name in ("epsilon", "flow"):
        process = make_process(name)
        predict, clean, times = gaussian_network(process, 0.3, 0.8), 0.3 + 0.8 * normal(3, 8), [0.2, 0.5, 0.9]
        noisy = invert(predict, process, clean, own_times(process, times), steps=150, corrections=3)
        alpha, sigma = process.alpha_sigma(own_times(process, times), clean)
        expected = alpha * 0.3 + (alpha**2 * 0.64 + sigma**2).sqrt() * (clean - 0.3) / 0.8
        torch.testing.assert_close(noisy, expected, rtol=0.02, atol=0.02)


def test_a_clean_predicting_network_inverts_from_its_first_timestep(make_process, normal, gaussian_network) -> None:
    process = make_process("sample")
    predict, times = gaussian_network(process, 0.3, 0.8), own_times(process, [0.3, 0.9])
    clean = 0.3 + 0.8 * normal(2, 8)
    returned = there_and_back(predict, process, clean, times, 40, corrections=40)
    torch.testing.assert_close(returned, clean, rtol=1e-6, atol=1e-6)


def test_rows_do_not_depend_on_their_company(process, normal, gaussian_network) -> None:
    predict, clean = gaussian_network(process, 0.3, 0.8), normal(3, 8)
    times = own_times(process, [0.1, 0.5, 0.9])
    together = invert(predict, process, clean, times, steps=5, corrections=1)
    alone = torch.cat([invert(predict, process, clean[[i]], times[[i]], 5, 1) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)


def test_the_network_is_never_asked_at_the_clean_endpoint(make_process, normal) -> None:
    asked = []

    def predict(noisy: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        asked.append(times)
        return torch.zeros_like(noisy)

    process, clean, times = make_process("epsilon"), normal(2, 4), torch.tensor([3, 999])
    returned = there_and_back(predict, process, clean, times, steps=10, corrections=2)
    torch.testing.assert_close(returned, clean, rtol=1e-12, atol=1e-12)
    assert len(asked) == 40
    assert min(int(times.min()) for times in asked) == 0
    assert max(int(times.max()) for times in asked) == 999


def test_inversion_keeps_no_graph(make_process, normal) -> None:
    weight = torch.ones(1, dtype=torch.float64, requires_grad=True)
    noisy = invert(lambda x, t: weight * x, make_process("flow"), normal(2, 4), torch.tensor([500.0, 900.0]))
    assert not noisy.requires_grad


def test_implied_noise_is_what_would_have_corrupted(process, normal) -> None:
    clean, noise, times = normal(2, 4), normal(2, 4, seed=1), own_times(process, [0.2, 0.9])
    noisy = process.corrupt(clean, noise, times)
    torch.testing.assert_close(implied_noise(process, noisy, clean, times), noise, rtol=1e-9, atol=1e-9)
