from __future__ import annotations

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler

from palate.diffusion import sample


def test_a_network_that_knows_the_answer_samples_it(process, normal) -> None:
    clean = normal(3, 4)

    def predict(noisy: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        alpha, sigma = process.alpha_sigma(times, noisy)
        p, q = process.target_weights(alpha, sigma)
        return p * clean + q * (noisy - alpha * clean) / sigma

    for eta in (0.0, 1.0):
        drawn = sample(predict, process, normal(3, 4, seed=1), 6, eta, torch.Generator().manual_seed(0))
        torch.testing.assert_close(drawn, clean, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_samples_have_the_datas_moments(eta: float, process, gaussian_network, normal) -> None:
    predict, generator = gaussian_network(process, 2.0, 0.5), torch.Generator().manual_seed(0)
    # Exactly the process's own first state: from plain noise the 7 % of signal left at leading spacing's first timestep
    # would be missing from the mean.
    first = process.timestep_grid(100)[:1].expand(4)
    start = process.corrupt(2.0 + 0.5 * normal(4, 5000), normal(4, 5000, seed=1), first)
    drawn = sample(predict, process, start, 100, eta, generator)
    assert drawn.mean().item() == pytest.approx(2.0, abs=0.05)
    assert drawn.std().item() == pytest.approx(0.5, rel=0.06)


def test_deterministic_sampling_equals_diffusers_ddim(normal, make_process, gaussian_network, stable_diffusion) -> None:
    process = make_process("epsilon")
    predict, start = gaussian_network(process, 0.3, 0.8), normal(2, 4)
    scheduler = DDIMScheduler.from_config({**stable_diffusion, "clip_sample": False, "set_alpha_to_one": True})
    scheduler.set_timesteps(20)
    noisy = start
    for time in scheduler.timesteps:
        noisy = scheduler.step(predict(noisy, time.expand(2)), time, noisy).prev_sample
    torch.testing.assert_close(sample(predict, process, start, 20), noisy, rtol=1e-4, atol=1e-4)


def test_one_generator_per_row_makes_rows_independent_of_company(process, gaussian_network, normal) -> None:
    predict, start = gaussian_network(process, 0.3, 0.8), normal(3, 20)

    def draw(row_indices: list[int]) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(10 + index) for index in row_indices]
        return sample(predict, process, start[row_indices], 5, 1.0, generators)

    torch.testing.assert_close(draw([0, 1, 2]), torch.cat([draw([0]), draw([1]), draw([2])]), rtol=1e-12, atol=1e-12)
