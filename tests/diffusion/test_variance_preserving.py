from __future__ import annotations

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

from palate.diffusion import variance_preserving
from palate.errors import UserError

CONFIGS = {
    "stable_diffusion": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "linear_100": {"beta_schedule": "linear", "num_train_timesteps": 100, "beta_end": 0.2},
    "cosine_500": {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 500},
    "sigmoid": {"beta_schedule": "sigmoid"},
    "zero_snr": {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "rescale_betas_zero_snr": True,
        "prediction_type": "v_prediction",
    },
}


@pytest.mark.parametrize("name", CONFIGS)
def test_corruption_and_velocity_equal_diffusers(name: str, normal) -> None:
    config = {"prediction_type": "v_prediction", **CONFIGS[name]}
    process, scheduler = variance_preserving(config), DDPMScheduler(**config)
    steps = process.num_train_timesteps
    times = torch.tensor([0, 1, steps // 3, steps // 2, steps - 1])
    clean, noise = normal(5, 4, 3, 3), normal(5, 4, 3, 3, seed=1)
    torch.testing.assert_close(
        process.corrupt(clean, noise, times), scheduler.add_noise(clean, noise, times), rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(
        process.target(clean, noise, times), scheduler.get_velocity(clean, noise, times), rtol=1e-5, atol=1e-5
    )


def test_tables_are_hand_computed_products_of_given_betas() -> None:
    process = variance_preserving({"trained_betas": [0.5, 0.5, 0.75], "beta_schedule": "linear"})
    alpha, sigma = process.levels(torch.tensor([-1, 0, 1, 2]))
    assert process.num_train_timesteps == 3
    assert process.timestep_grid(3).tolist() == [2, 1, 0, -1]
    assert alpha.dtype == torch.float64
    torch.testing.assert_close(alpha.square(), torch.tensor([1, 0.5, 0.25, 0.0625], dtype=torch.float64))
    torch.testing.assert_close(sigma.square(), torch.tensor([0, 0.5, 0.75, 0.9375], dtype=torch.float64))


def test_tables_are_products_in_float64(stable_diffusion) -> None:
    betas = DDPMScheduler.from_config(stable_diffusion).betas.double()
    alpha, sigma = variance_preserving(stable_diffusion).levels(torch.arange(1000))
    torch.testing.assert_close(alpha.square(), (1 - betas).log().cumsum(0).exp(), rtol=1e-12, atol=0)
    torch.testing.assert_close(
        alpha.square() + sigma.square(), torch.ones(1000, dtype=torch.float64), rtol=1e-12, atol=0
    )


def test_zero_terminal_snr_ends_in_pure_noise_that_a_velocity_still_reads(make_process, normal) -> None:
    process, times = make_process("v_zero_snr"), torch.tensor([999, 999])
    clean, noise = normal(2, 4), normal(2, 4, seed=1)
    noisy = process.corrupt(clean, noise, times)
    assert torch.equal(noisy, noise)
    assert torch.equal(process.to_clean(process.target(clean, noise, times), noisy, times), clean)


@pytest.mark.parametrize("steps", [100, 500, 1000])
def test_drawn_times_are_uniform_over_the_checkpoints_own_timesteps(steps: int) -> None:
    process = variance_preserving({"beta_schedule": "linear", "num_train_timesteps": steps, "beta_end": 0.01})
    times = process.draw_times(20_000, torch.Generator().manual_seed(0))
    assert times.dtype == torch.int64
    assert (int(times.min()), int(times.max())) == (0, steps - 1)
    assert times.double().mean().item() == pytest.approx((steps - 1) / 2, rel=0.015)
    assert times.double().std().item() == pytest.approx(steps / 12**0.5, rel=0.015)


def test_a_few_step_checkpoint_draws_its_own_timesteps(stable_diffusion) -> None:
    process = variance_preserving(stable_diffusion, timesteps=[249, 499, 749, 999])
    times = process.draw_times(4000, torch.Generator().manual_seed(0))
    values, counts = times.unique(return_counts=True)
    assert values.tolist() == [249, 499, 749, 999]
    assert (counts - 1000).abs().max() < 150


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_sampling_grid_is_the_checkpoints_own(spacing: str, stable_diffusion) -> None:
    config = {**stable_diffusion, "timestep_spacing": spacing}
    scheduler = DDIMScheduler.from_config(config)
    scheduler.set_timesteps(20)
    assert variance_preserving(config).timestep_grid(20).tolist() == [*scheduler.timesteps.tolist(), -1]


def test_a_grid_of_every_timestep_stays_in_the_table(stable_diffusion) -> None:
    grid = variance_preserving(stable_diffusion).timestep_grid(1000)
    assert grid.max() == 999


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rescale_betas_zero_snr": True}, "zero terminal SNR"),
        ({"prediction_type": "flow_prediction"}, "flow_prediction"),
        ({"beta_schedule": "wavy"}, "wavy"),
        ({"beta_schedule": None, "_class_name": "EDMEulerScheduler"}, "EDMEulerScheduler holds no betas"),
    ],
)
def test_a_config_that_cannot_be_trained_is_a_users_error(change: dict, message: str, stable_diffusion) -> None:
    with pytest.raises(UserError, match=message) as raised:
        variance_preserving({**stable_diffusion, **change})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("timesteps", [[], [1000], [-1, 3]])
def test_timesteps_outside_the_table_are_a_users_error(timesteps: list[int], stable_diffusion) -> None:
    with pytest.raises(UserError, match=r"\[0, 1000\)"):
        variance_preserving(stable_diffusion, timesteps=timesteps)


@pytest.mark.parametrize("steps", [0, 1001])
def test_too_few_or_too_many_steps_are_a_users_error(steps: int, stable_diffusion) -> None:
    with pytest.raises(UserError, match="1 to 1000"):
        variance_preserving(stable_diffusion).timestep_grid(steps)


def test_an_unknown_spacing_is_a_users_error(stable_diffusion) -> None:
    with pytest.raises(UserError, match="sideways"):
        variance_preserving({**stable_diffusion, "timestep_spacing": "sideways"}).timestep_grid(10)
