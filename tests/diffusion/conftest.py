"""Processes of every parametrisation, and networks whose answers are known in closed form."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from palate.diffusion import NoiseProcess, rectified_flow, variance_preserving

STABLE_DIFFUSION = {
    "_class_name": "PNDMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
}

PROCESSES: dict[str, Callable[[], NoiseProcess]] = {
    "epsilon": lambda: variance_preserving(STABLE_DIFFUSION),
    "sample": lambda: variance_preserving({**STABLE_DIFFUSION, "prediction_type": "sample"}),
    "v_prediction": lambda: variance_preserving({**STABLE_DIFFUSION, "prediction_type": "v_prediction"}),
    "v_zero_snr": lambda: variance_preserving(
        {**STABLE_DIFFUSION, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    ),
    "v_500_cosine": lambda: variance_preserving(
        {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 500, "prediction_type": "v_prediction"}
    ),
    "flow": lambda: rectified_flow(),
    "flow_shift_3": lambda: rectified_flow(shift=3.0),
}


@pytest.fixture(params=PROCESSES)
def process(request: pytest.FixtureRequest) -> NoiseProcess:
    return PROCESSES[request.param]()


@pytest.fixture
def stable_diffusion() -> dict:
    return dict(STABLE_DIFFUSION)


@pytest.fixture
def make_process() -> Callable[[str], NoiseProcess]:
    return lambda name: PROCESSES[name]()


@pytest.fixture
def normal() -> Callable[..., Tensor]:
    """Float64 noise from a seed."""

    def draw(*shape: int, seed: int = 0) -> Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    return draw


@pytest.fixture
def gaussian_network() -> Callable[..., Callable[[Tensor, Tensor], Tensor]]:
    """The perfect network for data x0 ~ N(mean, std^2): the posterior mean of its target."""

    def make(process: NoiseProcess, mean: float, std: float) -> Callable[[Tensor, Tensor], Tensor]:
        def predict(noisy: Tensor, times: Tensor) -> Tensor:
            alpha, sigma = process.alpha_sigma(times, noisy)
            centred = (noisy - alpha * mean) / (alpha**2 * std**2 + sigma**2)
            clean, noise = mean + alpha * std**2 * centred, sigma * centred
            p, q = process.target_weights(alpha, sigma)
            return p * clean + q * noise

        return predict

    return make
