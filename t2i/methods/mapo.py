"""MaPO (Hong et al. 2024, arXiv 2406.06424), on UNets and on rectified flow. No reference.

    data form    pairs
    corruption   one time and one noise for both pictures of a pair
    likelihood   mean squared error L on the network's own target; phi(L) = s L / (exp(s L) - 1)
    objective    mean L_w - beta log sigmoid(T (phi_w - phi_l))

Official settings (SDXL): beta 0.1, s 0.5, T 1000, learning rate 1e-5, batch 8 x 2, 2,000 steps, 8-bit Adam, constant
rate; LoRA rank 8. Nothing is published for SD1.5 and for flow; there L is the velocity's error, whose size is another
one, and s may need to be.

What we do otherwise than the reference code: phi is computed by a form that is stable where L nears 0; ties are no
wins (its `--remove_ties False` reads as True); the data set's split is the user's, not "validation".
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from .settings import GuardedSettings, guarded

if TYPE_CHECKING:
    from ..method import Method


class MaPO(GuardedSettings):
    """The recipe's `method` section for MaPO."""

    name: Literal["mapo"] = "mapo"
    beta: float = Field(default=0.1, gt=0, description="weight of the margin's term beside the winner's error")
    snr: float = Field(default=0.5, gt=0, description="s in phi(L); the paper's snr_value")
    steps: float = Field(default=1000, gt=0, description="T, which multiplies the difference of phi")

    def build(self, elements: int) -> Method:
        """The method; `elements` of a latent do not matter, for errors are means."""
        from ...objectives import mapo
        from ..method import Method

        return Method(
            name=self.name,
            needs_reference=False,
            temperature=self.steps * self.snr / 2,  # phi falls by s / 2 for each unit of L near 0
            **guarded(partial(mapo, beta=self.beta, snr=self.snr, steps=self.steps), self.safeguard),
        )
