"""How many bytes each phase of a run holds at once, and what would save some of them."""

from __future__ import annotations

from dataclasses import replace

from ..errors import UserError
from .batches import PROMPTS_AT_ONCE, pictures_at_once
from .counts import count_reference, count_sizes, count_step, count_text, count_vae
from .models.architectures import latent_shape
from .workload import Workload, settled_dtype

GIB = 2**30
USABLE = 0.9
"""Share of the free memory that a run may fill: the rest is for the allocator's gaps and the kernels' workspaces."""

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def text_encoding_bytes(work: Workload) -> int:
    """While prompts are encoded: the encoders, and their widest moment, three tensors as wide as a feed-forward."""
    configs = [part.config for part in work.architecture.text_encoders.values()]
    widest = max((config.get("d_ff") or config["intermediate_size"] for config in configs), default=0)
    elements = count_text(work).parameters + 3 * PROMPTS_AT_ONCE * work.architecture.text_tokens * widest
    return elements * _BYTES[work.dtype]


def vae_encoding_bytes(work: Workload) -> int:
    """While pictures are encoded."""
    return count_vae(work, pictures_at_once(work.resolution)).peak_bytes


def lasting_bytes(work: Workload) -> dict[str, int]:
    """What stays on the device all through training, by what it is."""
    sizes, full = count_sizes(work), work.tuning == "full"
    copied = full and work.reference and work.reference_device == "same"
    weights = sizes.parameters * (4 if full else _BYTES[work.dtype])
    return {
        "weights": weights + (0 if full else 4 * sizes.trainable),
        "reference": sizes.parameters * _BYTES[work.copy_dtype] if copied else 0,
        "gradients": 4 * sizes.trainable,
        "optimizer": sizes.optimizer_bytes,
        "ema": 4 * sizes.trainable if work.ema else 0,
    }


def training_bytes(work: Workload, checkpointing: bool) -> int:
    """The most that training holds at once."""
    passing = count_step(work, checkpointing).peak_bytes
    if work.reference or work.calls:  # its pass is over before the policy's begins, so the larger of the two counts
        visiting = count_reference(work).peak_bytes
        if work.reference and work.tuning == "full" and work.reference_device == "cpu":
            visiting += count_sizes(work).parameters * _BYTES[work.copy_dtype]
        passing = max(passing, visiting)
    return sum(lasting_bytes(work).values()) + passing


def choose_checkpointing(work: Workload, capacity: int) -> bool:
    """Whether to train with gradient checkpointing: only where the need without it is over 90 % of `capacity`.

    Args:
        capacity: bytes that this process may hold on the device, weights included; see `training.cards`.

    Raises UserError: it cannot fit even with checkpointing; the message says which switch saves how much.
    """
    usable = USABLE * capacity
    if training_bytes(work, checkpointing=False) <= usable:
        return False
    needed = training_bytes(work, checkpointing=True)
    if needed <= usable:
        return True
    savings = sorted(savings_of(work).items(), key=lambda saving: -saving[1])
    advice = ", ".join(f"{switch} saves {size / GIB:.1f}" for switch, size in savings)
    raise UserError(
        f"{work.architecture.name} at {work.resolution} pixels needs {needed / GIB:.1f} GiB even with gradient "
        f"checkpointing, but {usable / GIB:.1f} GiB are usable (90 % of what is free); "
        + (f"in GiB, {advice}" if advice else "no switch of the recipe saves enough, so take a larger card")
    )


def savings_of(work: Workload) -> dict[str, int]:
    """What each switch of a recipe would save of the peak with checkpointing, bytes; those under 1 % are left out."""
    full, lora_dtype = work.tuning == "full", settled_dtype("auto", "lora", work.precision)
    changes = {
        "training.micro_batch=1": replace(work, images=work.candidates),
        f"data.resolution={work.resolution // 2}": _smaller(work),
        "training.precision=bf16": replace(work, precision="bf16", dtype=work.dtype if full else "bfloat16"),
        "training.ema=null": replace(work, ema=False),
    }
    if work.knob and work.candidates > 2:
        few = work.candidates // 2
        changes[f"half of {work.knob}"] = replace(work, images=work.images // work.candidates * few, candidates=few)
    if full:
        changes["model.tuning=lora"] = replace(work, tuning="lora", dtype=lora_dtype)
        changes["training.optimizer.name=adafactor"] = replace(work, optimizer="adafactor")
    if full and work.reference:
        changes["model.reference.device=cpu"] = replace(work, reference_device="cpu")
        changes["model.reference.dtype=bfloat16"] = replace(work, reference_dtype="bfloat16")
    now = training_bytes(work, checkpointing=True)
    saved = {name: now - training_bytes(other, True) for name, other in changes.items() if other != work}
    return {name: size for name, size in saved.items() if size > 0.01 * now}


def _smaller(work: Workload) -> Workload:
    """Half the resolution; the same work where the network does not take that."""
    try:
        latent_shape(work.architecture, work.resolution // 2)
    except UserError:
        return work
    return replace(work, resolution=work.resolution // 2)
