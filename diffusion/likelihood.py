"""How well a network explains a sample: the ELBO's denoising error (Ho et al., arXiv 2006.11239, eq. 14)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..errors import UserError
from .process import NoiseProcess, Predict

Reduction = Literal["mean", "sum"]


def denoising_error(prediction: Tensor, target: Tensor, reduction: Reduction = "mean") -> Tensor:
    """|target - prediction|^2 per sample `[n]`, meaned or summed over all trailing dimensions, in float32 at least.

    `mean` is what the published image trainers take; `sum` is the ELBO's own scale, larger by the number of elements,
    so that a temperature for one is not a temperature for the other.
    """
    assert prediction.shape == target.shape, f"prediction {prediction.shape}, target {target.shape}"
    wide = _wide(prediction, target)
    return reduce_rows((target.to(wide) - prediction.to(wide)).square(), reduction)


def residual_overlap(
    prediction: Tensor, target: Tensor, k: int, reduction: Reduction = "mean", weights: Tensor | None = None
) -> Tensor:
    """The products of the first candidate's residual with itself and with the last one's, over elements, `[B, 2]`.

    Diffusion-SDPO's products of output gradients (arXiv 2511.03317), up to a factor that both have in common: an error
    w r^2 has the gradient 2 w r, so that the *square* of the weight is in a product. Without gradient. `prediction` and
    `target` are `[B * k, ...]`, k candidates of a group after each other, `weights` `[B * k]` those of their errors.
    """
    wide = _wide(prediction, target)
    residual = prediction.detach().to(wide) - target.to(wide)
    if weights is not None:
        residual = residual * weights.to(wide).view(-1, *[1] * (residual.ndim - 1))
    residual = residual.unflatten(0, (-1, k))
    return torch.stack([reduce_rows(residual[:, 0] * residual[:, place], reduction) for place in (0, -1)], dim=1)


def epsilon_weight(process: NoiseProcess, times: Tensor) -> Tensor:
    """The factor `[n]` that makes an error in the network's own target one in the noise: |n - nhat|^2 = w |y - yhat|^2.

    1 for epsilon, alpha^2 for v, (1 - s)^2 for a rectified flow, where beta w is Flow-DPO's beta_t (Liu et al. 2025,
    arXiv 2501.13918).
    """
    alpha, sigma = process.levels(times)
    p, q = process.target_weights(alpha, sigma)
    return (alpha / (alpha * q - sigma * p)).square()


def sigmoid_weight(process: NoiseProcess, times: Tensor, bias: float) -> Tensor:
    """sigmoid(bias - lambda) `[n]`, lambda = log(alpha^2 / sigma^2): the weighting that CaPO takes with bias 1.5.

    Hoogeboom et al. 2023 (arXiv 2301.11093) and Kingma and Gao 2023 (arXiv 2303.00848), for errors in the noise.
    """
    alpha, sigma = process.levels(times)
    return torch.sigmoid(bias - 2 * (alpha.log() - sigma.log()))


def denoising_errors(
    predict: Predict,
    process: NoiseProcess,
    clean: Tensor,
    noise: Tensor,
    times: Tensor,
    reduction: Reduction = "mean",
) -> Tensor:
    """The error `[n]` of `predict` on `clean [n, ...]` corrupted by `noise [n, ...]` at `times [n]`."""
    prediction = predict(process.corrupt(clean, noise, times), times)
    return denoising_error(prediction, process.target(clean, noise, times), reduction)


def reduce_rows(values: Tensor, reduction: Reduction) -> Tensor:
    """`[n, ...] -> [n]`. Raises UserError for an unknown reduction."""
    if reduction == "mean":
        return values.flatten(1).mean(1)
    if reduction == "sum":
        return values.flatten(1).sum(1)
    raise UserError(f"reduction {reduction!r} is unknown; take mean or sum")


def _wide(prediction: Tensor, target: Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(prediction.dtype, target.dtype), torch.float32)
