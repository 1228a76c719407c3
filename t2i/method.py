"""What a method is: its four choices, and nothing else.

The data form is in `candidates` and `fewest`, the corruption in `shared_noise`, the likelihood in `reduction`, and the
objective is a pure function of errors and labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..diffusion import NoiseProcess, Reduction, Stream, generator_for, group_noise, group_times, normal_noise
from ..objectives import Objective


@dataclass(frozen=True)
class Method:
    """One preference method.

    Attributes:
        name: as in a recipe.
        candidates: how many of a group's candidates it takes: 2 is the best and the worst, None is all of them.
        fewest: the smallest group that it can learn from.
        shared_noise: whether a group's candidates are corrupted with the same noise.
        needs_reference: whether the frozen policy's errors are computed.
        reduction: of the squared error over a candidate's latent elements.
        objective: `(policy_errors [B, k], reference_errors, labels) -> (loss, metrics)`.
        over_batch: whether the objective compares a group with others of its micro-batch.
        temperature: the effective temperature on the mean error, for the log.
    """

    name: str
    objective: Objective
    candidates: int | None = 2
    fewest: int = 2
    shared_noise: bool = True
    needs_reference: bool = True
    reduction: Reduction = "mean"
    over_batch: bool = False
    temperature: float | None = None

    def pick(self, count: int) -> Sequence[int]:
        """Which of a group's `count` candidates, sorted best first, it uses."""
        return range(count) if self.candidates is None or count < 2 else (0, count - 1)


def draw(
    method: Method, process: NoiseProcess, seed: int, position: int, candidates: int, shape: Sequence[int]
) -> dict[str, Tensor]:
    """All that is random in one visit of a group, from the seed and the visit's position alone; float32, on the CPU.

    Drawn with the item and not with the loss, so that data workers do it, and the step never waits for a copy.

    posterior  `[k, C, h, w]`  places each candidate within its latent's posterior
    noise      `[k, C, h, w]`, or `[1, C, h, w]` where the group shares it
    times      `[1]`           one for the group
    """
    posterior = [generator_for(seed, Stream.POSTERIOR, position, candidate) for candidate in range(candidates)]
    distinct = 1 if method.shared_noise else candidates
    return {
        "posterior": normal_noise((candidates, *shape), posterior),
        "noise": group_noise(seed, [position], distinct, shape, shared=method.shared_noise)[0],
        "times": group_times(process, seed, [position]),
    }


def corrupt(process: NoiseProcess, clean: Tensor, noise: Tensor, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy latents and targets `[B * k, C, h, w]` and times `[B * k]`, group after group.

    Args:
        clean: `[B, k, C, h, w]`.
        noise: `[B, k, C, h, w]`, or `[B, 1, C, h, w]` where a group shares it.
        times: `[B]`, one a group.
    """
    each = times.repeat_interleave(clean.shape[1])
    flat, flat_noise = clean.flatten(0, 1), noise.to(clean).expand_as(clean).flatten(0, 1)
    return process.corrupt(flat, flat_noise, each), process.target(flat, flat_noise, each), each
