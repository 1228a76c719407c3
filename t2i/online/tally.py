"""Numbers of a micro-batch whose parts bring pairs unevenly.

The loop takes the mean over all parts that tell a number, and a part may have no pair, and so no accuracy. So each part
but the last tells nothing (NaN), and the last one the mean over all of the micro-batch's pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Tally:
    """Means over what was counted, for one micro-batch of `parts` parts."""

    def __init__(self, parts: int) -> None:
        self.parts = parts
        self._sums: dict[str, Tensor] = {}
        self._weights: dict[str, float] = {}

    def add(self, name: str, mean: Tensor, weight: float) -> None:
        """Count a mean `[]` over `weight` of something; one over nothing may be NaN."""
        counted = weight * mean.detach().float() if weight else torch.zeros((), device=mean.device)
        self._sums[name] = self._sums.get(name, 0) + counted
        self._weights[name] = self._weights.get(name, 0) + weight

    def report(self, part: int) -> dict[str, Tensor]:
        """What part number `part` tells the loop; NaN at the end too for what nothing was counted of."""
        last = part == self.parts - 1
        return {
            name: total / (self._weights[name] or torch.nan) if last else torch.full_like(total, torch.nan)
            for name, total in self._sums.items()
        }
