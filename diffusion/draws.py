"""Counter-based randomness: a draw depends on (seed, stream, position) and on nothing else.

Every preference group has a position, its number in the order in which the run meets groups. What is drawn for it is
then the same on any rank, in any batch, on any device, and after any resume.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Sequence
from enum import IntEnum

import torch
from torch import Tensor

from .process import Generators, NoiseProcess


class Stream(IntEnum):
    """What a draw is for, so that one position's draws do not repeat each other. Renumbering changes every run."""

    TIMES = 0
    NOISE = 1
    POSTERIOR = 2
    DROPOUT = 3
    AUGMENTATION = 4
    SAMPLING = 5
    REFERENCE = 6


def generator_for(seed: int, *counters: int) -> torch.Generator:
    """A CPU generator seeded by a stable hash of `seed` and `counters`, in their order.

    torch's CPU generator keeps the low 32 bits of its seed, so among a million draws about a hundred pairs coincide.
    """
    key = ",".join(str(operator.index(number)) for number in (seed, *counters))
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def normal_noise(shape: Sequence[int], generator: Generators, dtype: torch.dtype = torch.float32) -> Tensor:
    """N(0, 1) noise of `shape [n, ...]` on the generator's device, from one generator or from one per row."""
    if isinstance(generator, torch.Generator):
        return torch.randn(tuple(shape), generator=generator, device=generator.device, dtype=dtype)
    assert len(generator) == shape[0], f"{len(generator)} generators for {shape[0]} rows"
    return torch.stack([normal_noise(shape[1:], row_generator, dtype) for row_generator in generator])


def group_noise(seed: int, positions: Sequence[int], k: int, shape: Sequence[int], shared: bool = True) -> Tensor:
    """Noise `[B, k, *shape]` for the groups at `positions [B]`; float32, on the CPU.

    `shared` gives all k candidates of a group the same noise (DPO; a read-only view), else each its own (RankDPO).
    Candidate 0's noise is the same in both, and no candidate's depends on k.
    """

    def candidate_noise(candidate: int) -> Tensor:
        generators = [generator_for(seed, Stream.NOISE, position, candidate) for position in positions]
        return normal_noise((len(generators), *shape), generators)

    if shared:
        return candidate_noise(0).unsqueeze(1).expand(-1, k, *shape)
    return torch.stack([candidate_noise(candidate) for candidate in range(k)], dim=1)


def group_times(process: NoiseProcess, seed: int, positions: Sequence[int]) -> Tensor:
    """One training time per group, `[B]`: its candidates share it."""
    return process.draw_times(len(positions), [generator_for(seed, Stream.TIMES, position) for position in positions])
