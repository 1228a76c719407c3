"""What an online recipe asks of a machine."""

from __future__ import annotations

from dataclasses import replace

from ..models.architectures import find_architecture
from ..models.model import process_of
from ..workload import Workload, plain_workload
from .method import OnlineMethod
from .recipe import OnlineRecipe


def online_workload(recipe: OnlineRecipe, method: OnlineMethod, resolution: int | None = None) -> Workload:
    """One part's pass: the latents that are learned from, with the prompt and without, and its share of the rollout.

    Where no pair comes about a part costs less. The judge and the pictures' decoding are not in it.

    Args:
        resolution: pixels a side where the caller has settled it; None takes the recipe's, or the checkpoint's own.
    Raises UserError: the checkpoint cannot be found, or no step can be learned from.
    """
    process = process_of(find_architecture(recipe.model.path, recipe.model.revision).scheduler)
    asked, parts = 1 if method.guidance == 1 else 2, method.parts(process)
    candidates = asked * method.learned_rows
    return replace(
        plain_workload(recipe, candidates, resolution),
        # SPO learns from two latents whatever its k; and of half of D3PO's pictures a pair must remain.
        knob=f"method.{method.knob}" if method.learned_rows > 3 else None,
        parts=parts,
        calls=asked * method.rolled(process) / (parts * candidates),
    )
