"""What has to be known of a text-to-image run to count its memory and FLOPs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from ..errors import UserError
from .models.architectures import Architecture, find_architecture
from .models.settings import ReferenceSettings

if TYPE_CHECKING:
    from .method import Method, Rival
    from .online.recipe import OnlineRecipe
    from .recipe import Recipe


@dataclass(frozen=True)
class Workload:
    """A run, as far as counting goes; fields and defaults are the recipe's, with `auto` settled.

    Attributes:
        resolution: pixels a side.
        images: pictures in one forward pass: `candidates` for each group of a micro-batch.
        candidates: pictures of one group; of an online method the latents of one prompt.
        parts: losses that a micro-batch has in turn, each of so many images; see `training.task.TaskInParts`.
        knob: the recipe's key that sets how many candidates there are, for advice; None where there are two.
        calls: further forward passes for each picture in a step, without gradient (an inversion's, a rival's).
        rival: how the last candidate of each group is drawn while training; None where all are from the data.
        dtype: of the frozen weights of a LoRA run and of the checkpoint as loaded otherwise.
        precision: of autocast; weights that are trained are float32.
        reference: whether the frozen policy's errors are computed in every step.
        reference_dtype, reference_device: of full tuning's frozen copy; LoRA has none, nor has a run with a rival.
    """

    architecture: Architecture
    resolution: int
    tuning: Literal["lora", "full"] = "lora"
    rank: int = 16
    targets: tuple[str, ...] | None = None
    images: int = 2
    candidates: int = 2
    knob: str | None = None
    parts: int = 1
    calls: float = 0
    rival: Rival | None = None
    dtype: str = "bfloat16"
    precision: Literal["no", "bf16", "fp16"] = "bf16"
    optimizer: str = "adamw"
    ema: bool = False
    reference: bool = True
    reference_dtype: str = "same"
    reference_device: Literal["same", "cpu"] = "same"

    @property
    def copy_dtype(self) -> str:
        """The type of the reference's weights: the frozen network's with LoRA, the copy's otherwise."""
        if self.rival and self.tuning == "full":
            return "float32"  # an earlier state of what is trained
        return self.dtype if self.tuning == "lora" or self.reference_dtype == "same" else self.reference_dtype

    @property
    def vae_dtype(self) -> str:
        """The type that the autoencoder is loaded in."""
        vae = self.architecture.vae
        return "float32" if vae is None or vae.config.get("force_upcast", True) else self.dtype

    def network_key(self) -> dict[str, object]:
        """What the network and its trainable part depend on."""
        network = self.architecture.network.as_dict()
        key = {"network": network, "family": self.architecture.family, "tuning": self.tuning}
        return {**key, "rank": self.rank, "targets": self.targets} if self.tuning == "lora" else key

    def pass_key(self) -> dict[str, object]:
        """What a pass through the network depends on."""
        own = {name: getattr(self, name) for name in ("images", "resolution", "dtype", "precision")}
        return {**self.network_key(), **own, "tokens": self.architecture.text_tokens}


GROUP = 4
"""Candidates of a group where a method takes all of them and no data have been seen: the rankings' usual size."""


def workload_of(
    recipe: Recipe, method: Method | None = None, resolution: int | None = None, candidates: int | None = None
) -> Workload:
    """What a recipe asks of a machine.

    Args:
        method: what the recipe's section builds; None for one that compares two pictures with a reference.
        candidates: pictures that the method takes of each group; None: two, or `GROUP` where it takes all.
        resolution: pixels a side where the caller has settled it; None takes the recipe's, or the checkpoint's own.
    Raises UserError: the checkpoint cannot be found, or the recipe sets a reference copy up that the method has not.
    """
    copied = recipe.model.tuning == "full" and recipe.model.reference != ReferenceSettings()
    if copied and method is not None and method.rival:
        raise UserError(
            f"model.reference has no effect on {method.name}, whose reference is an earlier state of the policy, in "
            "its precision and on its device; leave it out"
        )
    if candidates is None:
        candidates = 2 if method is None else method.candidates or GROUP
    if method is not None:
        candidates = method.compared(candidates)
    return replace(
        plain_workload(recipe, candidates, resolution),
        knob="the number of candidates" if method is not None and method.candidates is None else None,
        calls=0 if method is None else method.calls(candidates),
        rival=None if method is None else method.rival,
        reference=method is None or method.needs_reference,
    )


def plain_workload(recipe: Recipe | OnlineRecipe, candidates: int, resolution: int | None = None) -> Workload:
    """What a recipe says of model, optimizer and precision, with `candidates` pictures in a group.

    Raises UserError: the checkpoint cannot be found.
    """
    model, training = recipe.model, recipe.training
    architecture = find_architecture(model.path, model.revision)
    return Workload(
        architecture=architecture,
        resolution=resolution or recipe.data.resolution or architecture.resolution,
        tuning=model.tuning,
        rank=model.lora.rank,
        targets=model.lora.targets,
        images=candidates * training.micro_batch,
        candidates=candidates,
        dtype=settled_dtype(model.dtype, model.tuning, training.precision),
        precision=training.precision,
        optimizer=training.optimizer.name,
        ema=training.ema is not None,
        reference_dtype=model.reference.dtype,
        reference_device=model.reference.device,
    )


def settled_dtype(dtype: str, tuning: str, precision: str) -> str:
    """What a recipe's `model.dtype` stands for: `auto` is the training precision, and float32 for full tuning."""
    if dtype != "auto":
        return dtype
    return "float32" if tuning == "full" else {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}[precision]
