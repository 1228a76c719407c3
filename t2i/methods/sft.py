"""Fine-tuning on the winners alone: no method of preference, and what each of them must beat.

data form    pairs or rankings, of which the best picture is taken
corruption   fresh noise at a time of its own
likelihood   mean squared error on the network's own target, unweighted
objective    the mean error
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from .settings import MethodSettings

if TYPE_CHECKING:
    from ..method import Method


class SFT(MethodSettings):
    """The recipe's `method` section for fine-tuning on winners."""

    name: Literal["sft"] = "sft"

    def build(self, elements: int) -> Method:
        """The method; `elements` of a latent do not matter, for errors are means."""
        from ...objectives import sft
        from ..method import Method

        return Method(name=self.name, objective=sft, candidates=1, fewest=1, needs_reference=False)
