"""How many bytes each phase of a run holds at once, and what would save some of them."""

from __future__ import annotations

from dataclasses import replace

from ..errors import UserError
from .batches import PROMPTS_AT_ONCE, pictures_at_once
from .counts import count_decoding, count_encoding, count_reference, count_sizes, count_step, count_text, vae_bytes
from .models.sides import latent_shape
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
    return vae_bytes(work) + count_encoding(work, pictures_at_once(work.resolution)).peak_bytes


def lasting_bytes(work: Workload) -> dict[str, int]:
    """What stays on the device all through training, by what it is."""
    sizes, full = count_sizes(work), work.tuning == "full"
    weights = sizes.parameters * (4 if full else _BYTES[work.dtype])
    if work.rival:
        reference = earlier_state_bytes(work)
    else:
        copied = full and work.reference and work.reference_device == "same"
        reference = sizes.parameters * _BYTES[work.copy_dtype] if copied else 0
    return {
        "weights": weights + (0 if full else 4 * sizes.trainable),
        "reference": reference,
        "gradients": 4 * sizes.trainable,
        "optimizer": sizes.optimizer_bytes,
        "ema": 4 * sizes.trainable if work.ema else 0,
        "autoencoder": vae_bytes(work) if work.rival else 0,
    }


def earlier_state_bytes(work: Workload) -> int:
    """Of the trained weights in float32, as they are kept on the device and on disk where the reference is one."""
    return 4 * count_sizes(work).trainable


def training_bytes(work: Workload, checkpointing: bool) -> int:
    """The most that training holds at once."""
    passing = count_step(work, checkpointing).peak_bytes
    if work.reference or work.calls:  # its pass is over before the policy's begins, so the larger of the two counts
        visiting = count_reference(work).peak_bytes
        if work.reference and work.tuning == "full" and work.reference_device == "cpu":
            visiting += count_sizes(work).parameters * _BYTES[work.copy_dtype]
        passing = max(passing, visiting)
    if work.rival:  # drawn, decoded and encoded before the step's own passes; drawing is no wider than the reference's
        together = min(work.images // work.candidates, pictures_at_once(work.resolution))
        passing = max(passing, *(count(work, together).peak_bytes for count in (count_decoding, count_encoding)))
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
    raise UserError(
        f"{work.architecture.name} at {work.resolution} pixels needs {needed / GIB:.1f} GiB even with gradient "
        f"checkpointing, but {usable / GIB:.1f} GiB are usable (90 % of what is free); {advice(work)}"
    )


def advice(work: Workload) -> str:
    """What to do about a run that does not fit, for a message."""
    savings = sorted(savings_of(work).items(), key=lambda saving: -saving[1])
    told = ", ".join(f"{switch} saves {size / GIB:.1f}" for switch, size in savings)
    return f"in GiB, {told}" if told else "no switch of the recipe saves enough, so take a larger card"


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
    if full and work.reference and not work.rival:
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
