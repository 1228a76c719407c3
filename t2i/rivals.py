"""Pictures that a network draws while training, to be compared with those of the data."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ..diffusion import NoiseProcess, guided, sample
from .method import Rival
from .models.family import Conditions, Family, Framing


@torch.no_grad()
def draw_rivals(
    ask: Callable[[Conditions, Tensor, Tensor], Tensor],
    process: NoiseProcess,
    family: Family,
    rival: Rival,
    conditions: Conditions,
    empty: Conditions,
    start: Tensor,
    resolution: int,
) -> tuple[Tensor, Conditions]:
    """One latent `[n, C, h, w]` for each row of encoded prompts, and the conditions under which it was drawn.

    Args:
        ask: `(conditions, noisy, times) -> prediction`, the network that draws.
        conditions: of n prompts; what they say of a picture's size is replaced by the rival's own.
        empty: of the empty prompt, one row.
        start: the samplers' starting noise.
        resolution: pixels a side.
    """
    n, side = len(start), (resolution, resolution)
    sizes = family.size_conditions([Framing(side, (0, 0), side)] * n)
    given = conditions | {name: tensor.to(start.device) for name, tensor in sizes.items()}
    without = {name: tensor.to(start.device).expand(n, *tensor.shape[1:]) for name, tensor in empty.items()}
    predict = guided(partial(ask, given), partial(ask, given | without), rival.guidance)
    return sample(predict, process, start, rival.steps), given
