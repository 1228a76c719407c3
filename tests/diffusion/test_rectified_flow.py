from __future__ import annotations

import math

import pytest
import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

from palate.diffusion import rectified_flow, rectified_flow_from_config
from palate.diffusion.rectified_flow import shift_times
from palate.errors import UserError

FLUX = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
    "shift": 3.0,
}


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_corruption_equals_diffusers(shift: float, normal) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    process = rectified_flow_from_config(scheduler.config)
    times = scheduler.timesteps[[0, 10, 500, 999]]
    clean, noise = normal(4, 3, 2, 2), normal(4, 3, 2, 2, seed=1)
    torch.testing.assert_close(
        process.corrupt(clean, noise, times), scheduler.scale_noise(clean, times, noise), rtol=1e-5, atol=1e-5
    )


def test_shift_by_hand() -> None:
    s = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close(shift_times(s, 3.0), torch.tensor([0, 0.5, 0.75, 1], dtype=torch.float64))
    torch.testing.assert_close(shift_times(s, 1.0), s)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-0.5, 0.6)])
def test_drawn_times_are_logit_normal_before_the_shift(mean: float, std: float) -> None:
    process = rectified_flow(shift=3.0, mean=mean, std=std)
    s = process.draw_times(40_000, torch.Generator().manual_seed(0)).double() / 1000
    logits = torch.logit(s / (3 - 2 * s))  # the shift undone
    assert logits.mean().item() == pytest.approx(mean, abs=0.02)
    assert logits.std().item() == pytest.approx(std, rel=0.02)
    assert (s * 1000).median().item() == pytest.approx(
        1000 * float(shift_times(torch.tensor(mean).sigmoid(), 3)), abs=8
    )


def test_uniform_times_are_uniform_and_never_clean() -> None:
    times = rectified_flow(time_distribution="uniform").draw_times(40_000, torch.Generator().manual_seed(0)).double()
    assert times.mean().item() == pytest.approx(500, abs=6)
    assert times.std().item() == pytest.approx(1000 / 12**0.5, rel=0.01)
    assert 0 < times.min() < times.max() <= 1000


def test_times_agree_with_the_lattice_of_the_usual_training_script() -> None:
    """The script's u indexes a descending, shifted table, so its u is our 1 - s0."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    u = torch.sigmoid(0.7 + torch.randn(40_000, generator=torch.Generator().manual_seed(1)))
    lattice = scheduler.timesteps[(u * 1000).long()]
    drawn = rectified_flow(shift=3.0, mean=-0.7).draw_times(40_000, torch.Generator().manual_seed(0))
    quantiles = torch.linspace(0.05, 0.95, 7)
    torch.testing.assert_close(drawn.quantile(quantiles), lattice.quantile(quantiles), rtol=0, atol=12)


@pytest.mark.parametrize("steps", [1, 4, 28])
def test_sampling_grid_is_the_pipelines_own(steps: int) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(steps)
    grid = rectified_flow(shift=3.0).timestep_grid(steps)
    torch.testing.assert_close(grid[:-1], scheduler.timesteps, rtol=1e-5, atol=1e-3)
    assert grid[-1] == 0


def test_dynamic_shift_follows_the_number_of_image_tokens() -> None:
    process = rectified_flow_from_config(FLUX, image_tokens=4096)
    by_hand = rectified_flow(shift=math.exp(1.15))
    torch.testing.assert_close(process.timestep_grid(8), by_hand.timestep_grid(8))
    halfway = rectified_flow_from_config(FLUX, image_tokens=(256 + 4096) // 2)
    torch.testing.assert_close(halfway.timestep_grid(8), rectified_flow(shift=math.exp(0.825)).timestep_grid(8))


def test_a_multistep_solvers_flow_config_is_read() -> None:
    config = {
        "_class_name": "DPMSolverMultistepScheduler",
        "beta_schedule": "linear",
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
        "flow_shift": 3.0,
    }
    torch.testing.assert_close(
        rectified_flow_from_config(config).timestep_grid(5), rectified_flow(shift=3.0).timestep_grid(5)
    )


def test_a_config_that_is_no_flow_is_a_users_error(stable_diffusion) -> None:
    with pytest.raises(UserError, match="PNDMScheduler"):
        rectified_flow_from_config(stable_diffusion)
    with pytest.raises(UserError, match="image_tokens"):
        rectified_flow_from_config(FLUX)


@pytest.mark.parametrize(
    "wrong", [{"shift": 0.0}, {"std": -1.0}, {"std": float("nan")}, {"time_distribution": "cosine"}]
)
def test_values_that_make_no_distribution_are_a_users_error(wrong: dict) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        rectified_flow(**wrong)


def test_no_steps_are_a_users_error() -> None:
    with pytest.raises(UserError, match="at least 1"):
        rectified_flow().timestep_grid(0)
