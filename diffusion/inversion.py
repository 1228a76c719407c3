"""Inversion: the noisy sample from which the network's own sampler would return a given clean one."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from .process import NoiseProcess, Predict, mix, widest_dtype
from .transition import ancestral_std


def inversion_grid(process: NoiseProcess, times: Tensor, steps: int, start: int | None = None) -> Tensor:
    """Ascending times `[n, steps + 1]`, evenly spaced from `start` to exactly `times [n]`, each row its own.

    `start` is the clean endpoint unless given. Integer timesteps are rounded, so a row with few timesteps below it
    repeats some; such a step changes nothing.
    """
    assert steps >= 1, f"{steps} inversion steps"
    if start is None:
        # A network that predicts the clean sample tells nothing of a clean sample's noise: begin at its first timestep.
        start = 0 if process.prediction_type == "sample" else process.clean_time
    fractions = torch.linspace(0, 1, steps + 1, dtype=widest_dtype(times.device), device=times.device)
    grid = start + (times[:, None].to(fractions.dtype) - start) * fractions
    if not times.is_floating_point():
        grid = grid.round()
    return torch.cat([grid[:, :-1].to(times.dtype), times[:, None]], dim=1)


@torch.no_grad()
def invert(
    predict: Predict,
    process: NoiseProcess,
    clean: Tensor,
    times: Tensor,
    steps: int = 10,
    corrections: int = 0,
    start: int | None = None,
    *,
    average: bool = False,
    eta: float = 0.0,
    noise: Tensor | None = None,
) -> Tensor:
    """Carry `clean [n, ...]` up to x_t at exactly `times [n]` in `steps` steps, without gradients.

    DDIM inversion (arXiv 2010.02502, section 4.3) takes the prediction at the lower end of a step where the sampler
    will take it at the upper end, so sampling returns to `clean` only up to the step size. Each of the `corrections`
    asks again at the upper end that was found and steps anew from the same lower end: a fixed-point iteration whose
    limit `samplers.descend` undoes exactly along the same grid. It converges where a step is short against the
    network's slope. Costs steps * (1 + corrections) network calls.

    Args:
        average: step with the mean of all estimates so far (ReNoise, arXiv 2403.14602), not with the last one: of the
            noises that the predictions imply; on a flow of the velocities, so that one correction is Heun's step.
        eta: after each step, eta times the standard deviation of the sampler's own step from there is added (InPO,
            arXiv 2503.18454), as `noise`; at 0 nothing is added and the inversion is deterministic.
        noise: standard normal, `[steps, n, ...]`; read where eta > 0.
    """
    assert eta == 0 or noise is not None, "eta > 0 needs the noise of each step"
    noisy = clean
    for number, (lower, upper) in enumerate(pairwise(inversion_grid(process, times, steps, start).unbind(1))):
        # The clean endpoint of a variance-preserving process is no timestep; the network hears of the nearest one.
        asked_lower, asked_upper = lower.clamp(min=0), upper.clamp(min=0)
        noise_hat = process.to_noise(predict(noisy, asked_lower), noisy, asked_lower)
        raised = _raise_with_noise(process, noisy, noise_hat, lower, upper)
        estimates = [noise_hat]
        for _ in range(corrections):
            prediction = predict(raised, asked_upper)
            if average:
                # A straight path has one velocity: what is found above is meant for the lower end as it stands.
                flow = process.prediction_type == "flow_prediction"
                held = (noisy, asked_lower) if flow else (raised, asked_upper)
                estimates.append(process.to_noise(prediction, *held))
                raised = _raise_with_noise(process, noisy, torch.stack(estimates).mean(0), lower, upper)
            else:
                raised = _undo_step(process, noisy, raised, prediction, lower, upper)
        if eta > 0:
            assert noise is not None
            std = eta * ancestral_std(process, upper, lower)
            raised = mix(torch.ones_like(std), raised, std, noise[number].to(raised))
        noisy = raised
    return noisy


def implied_noise(process: NoiseProcess, noisy: Tensor, clean: Tensor, times: Tensor) -> Tensor:
    """(x_t - alpha x0) / sigma: the noise that would have corrupted `clean` into `noisy` (InPO, arXiv 2503.18454)."""
    alpha, sigma = process.levels(times)
    return mix(1 / sigma, noisy, -alpha / sigma, clean)


def _raise_with_noise(process: NoiseProcess, noisy: Tensor, noise_hat: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """x_u = (alpha_u / alpha_l) x_l + (sigma_u - sigma_l alpha_u / alpha_l) nhat: DDIM with the clean part kept."""
    (alpha_l, sigma_l), (alpha_u, sigma_u) = process.levels(lower), process.levels(upper)
    signal_kept = alpha_u / alpha_l
    return mix(signal_kept, noisy, sigma_u - sigma_l * signal_kept, noise_hat)


def _undo_step(
    process: NoiseProcess, noisy: Tensor, raised: Tensor, prediction: Tensor, lower: Tensor, upper: Tensor
) -> Tensor:
    """The x_u that a deterministic step with this prediction, made on `raised` at u, carries to `noisy` at l below.

    That step is x_l = [(alpha_l q - sigma_l p) x_u + (sigma_l alpha_u - alpha_l sigma_u) y] / (alpha_u q - sigma_u p),
    with p, q at u; solved for x_u in the network's own parametrisation, so that pure noise (alpha_u = 0) is no trouble.
    """
    if process.prediction_type == "sample":
        # Solved in x0hat this divides by sigma_l, which is nearly zero at first; solved in the noise it does not.
        return _raise_with_noise(process, noisy, process.to_noise(prediction, raised, upper), lower, upper)
    (alpha_l, sigma_l), (alpha_u, sigma_u) = process.levels(lower), process.levels(upper)
    p, q = process.target_weights(alpha_u, sigma_u)
    determinant, pivot = alpha_u * q - sigma_u * p, alpha_l * q - sigma_l * p
    return mix(determinant / pivot, noisy, (alpha_l * sigma_u - sigma_l * alpha_u) / pivot, prediction)
