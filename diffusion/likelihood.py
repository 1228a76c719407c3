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
    wide = torch.promote_types(torch.promote_types(prediction.dtype, target.dtype), torch.float32)
    return reduce_rows((target.to(wide) - prediction.to(wide)).square(), reduction)


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
