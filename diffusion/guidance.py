"""Classifier-free guidance (Ho & Salimans, arXiv 2207.12598): one prediction out of two."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec

import torch
from torch import Tensor

P = ParamSpec("P")


def guided(conditional: Callable[P, Tensor], unconditional: Callable[P, Tensor], scale: float) -> Callable[P, Tensor]:
    """A network whose prediction is u + scale (c - u), c and u being those of the two given, in float32 at least.

    Both take the same arguments and predict in the same parametrisation, any of them: all are linear in one another. At
    scale 1 that is c, and `unconditional` is never called.
    """
    if scale == 1:
        return conditional

    def predict(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        c, u = conditional(*args, **kwargs), unconditional(*args, **kwargs)
        # The scale multiplies half precision's rounding too: it is not rounded a second time.
        wide = torch.promote_types(torch.promote_types(c.dtype, u.dtype), torch.float32)
        return u.to(wide) + scale * (c.to(wide) - u.to(wide))

    return predict
