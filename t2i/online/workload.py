"""What an online recipe asks of a machine."""

from __future__ import annotations

from ..models.architectures import find_architecture
from ..models.model import process_of
from ..workload import Workload, settled_dtype
from .method import OnlineMethod
from .recipe import OnlineRecipe


def online_workload(recipe: OnlineRecipe, method: OnlineMethod, resolution: int | None = None) -> Workload:
    """One part's pass: the latents that are learned from, with the prompt and without, and its share of the rollout.

    Where no pair comes about a part costs less. The judge and the pictures' decoding are not in it.

    Args:
        resolution: pixels a side where the caller has settled it; None takes the recipe's, or the checkpoint's own.
    Raises UserError: the checkpoint cannot be found, or no step can be learned from.
    """
    model, training = recipe.model, recipe.training
    architecture = find_architecture(model.path, model.revision)
    process, asked = process_of(architecture.scheduler), 1 if method.guidance == 1 else 2
    candidates, parts = asked * method.learned_rows, method.parts(process)
    return Workload(
        architecture=architecture,
        resolution=resolution or recipe.data.resolution or architecture.resolution,
        tuning=model.tuning,
        rank=model.lora.rank,
        targets=model.lora.targets,
        images=candidates * training.micro_batch,
        candidates=candidates,
        knob=f"method.{method.knob}",
        parts=parts,
        calls=asked * method.rolled(process) / (parts * candidates),
        dtype=settled_dtype(model.dtype, model.tuning, training.precision),
        precision=training.precision,
        optimizer=training.optimizer.name,
        ema=training.ema is not None,
        reference_dtype=model.reference.dtype,
        reference_device=model.reference.device,
    )
