from __future__ import annotations

from itertools import pairwise

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


def bent(noisy: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    """An answer that depends on the sample and on the time, so that each estimate is another one."""
    return torch.sin(noisy + 0.003 * times.to(noisy).view(-1, 1))


def test_averaged_corrections_of_a_flow_are_heuns_steps(make_process, normal) -> None:
    """x_u = x_l + (u - l) (v(x_l) + v(x_l + (u - l) v(x_l))) / 2; the second correction takes the mean of three."""
    process, clean, times = make_process("flow"), normal(2, 6), torch.tensor([600.0, 900.0])
    for corrections in (1, 2):
        x, h = clean, (times / 3000)[:, None].double()  # the step in s: a third of the way
        for number in range(3):
            lower, upper = times * number / 3, times * (number + 1) / 3
            velocities = [bent(x, lower)]
            for _ in range(corrections):
                mean = sum(velocities) / len(velocities)
                velocities.append(bent(x + h * mean, upper))
            x = x + h * sum(velocities) / len(velocities)
        found = invert(bent, process, clean, times, steps=3, corrections=corrections, average=True)
        torch.testing.assert_close(found, x, rtol=1e-6, atol=1e-6)
        last = invert(bent, process, clean, times, steps=3, corrections=corrections)
        assert (last - x).abs().max() > 1e-2


@pytest.mark.parametrize("name", ["epsilon", "v_prediction"])
def test_averaged_corrections_of_stable_diffusion_take_the_mean_noise(make_process, normal, name) -> None:
    """DDIM's step up, x_u = alpha_u x0hat + sigma_u nhat from x_l, with the mean of the noises found at l and at u."""
    alpha_bar = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)
    clean, x = normal(2, 6), normal(2, 6)

    def noise_hat(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        a, s = alpha_bar[t].sqrt()[:, None], (1 - alpha_bar[t]).sqrt()[:, None]
        return bent(x, t) if name == "epsilon" else a * bent(x, t) + s * x

    grid = torch.tensor([[-1, 299, 599], [-1, 449, 899]]).unbind(1)
    for lower, upper in pairwise(grid):
        below = torch.where(lower < 0, 1.0, alpha_bar[lower])[:, None]
        above = alpha_bar[upper][:, None]

        def up(n: torch.Tensor, x=x, below=below, above=above) -> torch.Tensor:
            return above.sqrt() * (x - (1 - below).sqrt() * n) / below.sqrt() + (1 - above).sqrt() * n

        first = noise_hat(x, lower.clamp(min=0))
        x = up((first + noise_hat(up(first), upper)) / 2)
    found = invert(bent, make_process(name), clean, grid[-1], steps=2, corrections=1, average=True)
    torch.testing.assert_close(found, x, rtol=1e-5, atol=1e-5)


def test_the_noise_of_eta_is_that_of_each_steps_own_ends(make_process, normal) -> None:
    """Where the network says 0, a step scales by alpha_u / alpha_l and adds eta times the posterior's deviation."""
    alpha_bar = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)
    clean, noise = normal(1, 6), normal(4, 1, 6, seed=1)
    vp, flow = clean, clean
    for number, (lower, upper) in enumerate([(None, 199), (199, 399), (399, 599), (599, 799)]):
        above, below = alpha_bar[upper], alpha_bar[lower] if lower else 1.0
        std = ((1 - below) / (1 - above) * (1 - above / below)).sqrt()
        vp = (above / below) ** 0.5 * vp + 0.3 * std * noise[number]
        # On the flow the velocity is 0 and x stays; s / t for sigma, (1 - t) / (1 - s) for what is kept of the signal.
        s, t = number / 5, (number + 1) / 5
        flow = flow + 0.3 * s / t * (t**2 - ((1 - t) / (1 - s) * s) ** 2) ** 0.5 * noise[number]

    def silent(noisy: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(noisy)

    found = invert(silent, make_process("epsilon"), clean, torch.tensor([799]), steps=4, eta=0.3, noise=noise)
    torch.testing.assert_close(found, vp, rtol=1e-5, atol=1e-5)
    found = invert(silent, make_process("flow"), clean, torch.tensor([800.0]), steps=4, eta=0.3, noise=noise)
    torch.testing.assert_close(found, flow, rtol=1e-5, atol=1e-5)
