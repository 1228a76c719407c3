"""Model-FLOPs utilisation."""

from __future__ import annotations

import torch

from .cards import card_of


def peak_flops(device: torch.device) -> float | None:
    """The device's dense bf16 peak, FLOP/s; None when it is not known."""
    if device.type != "cuda":
        return None
    card = card_of(torch.cuda.get_device_name(device))
    return card.bf16 if card else None


def utilisation(flops_per_group: float, groups_per_second: float, peak: float, processes: int) -> float:
    """Share of the peak that the model's own arithmetic uses; `groups_per_second` is over all processes."""
    return flops_per_group * groups_per_second / (peak * processes)
