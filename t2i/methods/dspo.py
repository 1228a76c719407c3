"""DSPO, direct score preference optimisation (Zhu et al., ICLR 2025), on UNets and on rectified flow.

    data form    pairs
    corruption   one time and one noise for both pictures of a pair
    likelihood   mean squared error on the network's own target, and the distance to the reference's prediction
    objective    |(e - n) - beta (1 - sigmoid(beta / 2 * margin)) (e - e_ref)|^2 of the winner

Official settings (SD1.5): beta 0.001 (searched from 0.001 to 0.05), 500 to 1,500 steps. The SDXL branch of the
reference code is another loss with a threshold of its own, which its users question; here there is one form for all
networks.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from .settings import GuardedSettings, guarded

if TYPE_CHECKING:
    from ..method import Method


class DSPO(GuardedSettings):
    """The recipe's `method` section for DSPO."""

    name: Literal["dspo"] = "dspo"
    beta: float = Field(default=0.001, gt=0)

    def build(self, elements: int) -> Method:
        """The method; `elements` of a latent do not matter, for errors are means."""
        from ...objectives import dspo
        from ..method import Method

        return Method(name=self.name, **guarded(partial(dspo, beta=self.beta), self.safeguard, frozenset({"drift"})))
