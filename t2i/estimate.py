"""What a run will need, from counts alone: memory in each phase, FLOPs, and time on a named card."""

from __future__ import annotations

from dataclasses import dataclass

from ..training.cards import ATTAINABLE, EXPECTED, Card
from .counts import count_decoding, count_encoding, count_reference, count_sizes, count_step, count_text
from .memory import (
    GIB,
    choose_checkpointing,
    earlier_state_bytes,
    lasting_bytes,
    text_encoding_bytes,
    training_bytes,
    vae_encoding_bytes,
)
from .workload import Workload, workload_of

__all__ = ["Estimate", "Timing", "Training", "choose_checkpointing", "estimate", "flops_per_pair", "workload_of"]

_BITS = {"no": 32, "bf16": 16, "fp16": 16}


@dataclass(frozen=True)
class Timing:
    """How long training takes on a card; pairs are counted over all processes.

    `floor` is what the card's attainable matrix speed allows, `expected` the fast and the slow end of what to expect.
    """

    card: str
    step_seconds_floor: float
    step_seconds_expected: tuple[float, float]
    pairs_per_second_floor: float
    pairs_per_second_expected: tuple[float, float]


@dataclass(frozen=True)
class Training:
    """Training with or without gradient checkpointing; `peak_gib` is all that is on the device at once."""

    activations_gib: float
    peak_gib: float
    tflops_per_pair: float
    timing: Timing | None


@dataclass(frozen=True)
class Estimate:
    """A run in numbers. The phases (text, autoencoder, training) follow each other and free what they held.

    `autoencoder_gib` is what its weights take all through training, and `references_gib` what the run folder's
    `references/` takes on disk in the end; both are 0 but for a method that draws with its own earlier states.
    """

    architecture: str
    tuning: str
    resolution: int
    micro_batch: int
    batch_size: int
    parts: int
    dtype: str
    precision: str
    parameters: int
    trainable: int
    weights_gib: float
    reference_gib: float
    gradients_gib: float
    optimizer_gib: float
    ema_gib: float
    autoencoder_gib: float
    references_gib: float
    text_encoding_peak_gib: float
    vae_encoding_peak_gib: float
    preparation_tflops_per_pair: float
    plain: Training
    checkpointed: Training


def estimate(
    work: Workload, batch_size: int | None = None, card: Card | None = None, processes: int = 1, steps: int = 1
) -> Estimate:
    """Count a run.

    Args:
        batch_size: pairs per optimizer step over all processes; None: one micro-batch a process.
        card: what to time it on; None gives no times.
        steps: optimizer steps of the whole run, for what it leaves on disk.

    Raises UserError: the network does not take the resolution.
    """
    sizes, lasting, micro_batch = count_sizes(work), lasting_bytes(work), work.images // work.candidates
    pairs, prepared = batch_size or micro_batch * processes, work.candidates - (work.rival is not None)

    def training(checkpointing: bool) -> Training:
        flops = flops_per_pair(work, checkpointing)
        return Training(
            activations_gib=count_step(work, checkpointing).peak_bytes / GIB,
            peak_gib=training_bytes(work, checkpointing) / GIB,
            tflops_per_pair=flops / 1e12,
            timing=_time(flops, pairs, card, processes, _BITS[work.precision]) if card else None,
        )

    return Estimate(
        architecture=work.architecture.name,
        tuning=work.tuning,
        resolution=work.resolution,
        micro_batch=micro_batch,
        batch_size=pairs,
        parts=work.parts,
        dtype=work.dtype,
        precision=work.precision,
        parameters=sizes.parameters,
        trainable=sizes.trainable,
        weights_gib=lasting["weights"] / GIB,
        reference_gib=lasting["reference"] / GIB,
        gradients_gib=lasting["gradients"] / GIB,
        optimizer_gib=lasting["optimizer"] / GIB,
        ema_gib=lasting["ema"] / GIB,
        autoencoder_gib=lasting["autoencoder"] / GIB,
        references_gib=_earlier_states(work, steps) * earlier_state_bytes(work) / GIB,
        text_encoding_peak_gib=text_encoding_bytes(work) / GIB,
        vae_encoding_peak_gib=vae_encoding_bytes(work) / GIB,
        preparation_tflops_per_pair=(count_text(work).flops + prepared * count_encoding(work, 1).flops) / 1e12,
        plain=training(checkpointing=False),
        checkpointed=training(checkpointing=True),
    )


def flops_per_pair(work: Workload, checkpointing: bool = False) -> float:
    """FLOPs of one group's part of a step, passes without gradient included; of all parts that its losses come in.

    Without checkpointing these are the model FLOPs.
    """
    asked = work.calls + work.reference
    without_gradient = asked * count_reference(work).flops if asked else 0
    one = (count_step(work, checkpointing).flops + without_gradient) / work.images
    round_trip = count_decoding(work, 1).flops + count_encoding(work, 1).flops if work.rival else 0
    return work.parts * work.candidates * one + round_trip


def _earlier_states(work: Workload, steps: int) -> int:
    """How many a run keeps: one before its first step and one every `every` steps that go on."""
    return -(-steps // work.rival.every) if work.rival else 0


def _time(flops: float, pairs: int, card: Card, processes: int, bits: int) -> Timing:
    peak = card.peak(bits) * processes
    floor, slow, fast = (flops / (share * peak) for share in (ATTAINABLE, *EXPECTED))
    return Timing(
        card=card.name,
        step_seconds_floor=pairs * floor,
        step_seconds_expected=(pairs * fast, pairs * slow),
        pairs_per_second_floor=1 / floor,
        pairs_per_second_expected=(1 / fast, 1 / slow),
    )
