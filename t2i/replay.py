"""A policy whose reference is an earlier state of itself, from a pool in the run folder (SePPO, arXiv 2410.05255)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..diffusion import Stream, generator_for
from ..errors import PalateError
from ..training.disk import PARTIAL, full_disk_explained
from ..training.processes import process_state
from ..training.trained import load_weights, trained_parameters
from .models.policy import Policy


class ReplayedPolicy:
    """A policy held against one of its own earlier states instead of its original.

    The trained weights are kept in `folder` at step 0 and every `every` steps. At these steps one of the states so far
    is drawn with equal chances, by the seed and the step alone, and is the reference until the next: a run that goes on
    from a checkpoint finds the same one. Until the first step the policy is its own reference.
    """

    def __init__(self, policy: Policy, folder: Path, seed: int, every: int) -> None:
        self.network = policy.network
        self._policy, self._bare = policy, policy.network
        self._folder, self._seed, self._every = folder, seed, every
        self._weights = trained_parameters(policy.network)
        self._earlier: dict[str, Tensor] | None = None
        self._drawn: int | None = None

    def at_step(self, step: int) -> None:
        """Keep the weights if it is time to, and take up the reference that belongs to this step.

        Raises PalateError for a full disk, or a state that is gone.
        """
        state, era = process_state(), step // self._every
        if step % self._every == 0:
            if state.is_main_process:
                self._keep(step)
            state.wait_for_everyone()
        drawn = self._every * int(
            torch.randint(era + 1, (1,), generator=generator_for(self._seed, Stream.REFERENCE, era))
        )
        if drawn != self._drawn:
            self._take_up(drawn)

    @contextlib.contextmanager
    def reference(self) -> Iterator[nn.Module]:
        """The network with the earlier weights, to be called without gradient inside the context."""
        if self._earlier is None:
            yield self._bare
            return
        own = {name: weight.data for name, weight in self._weights.items()}
        training = self._bare.training
        self._bare.eval()  # a LoRA's dropout is the policy's alone
        try:
            for name, weight in self._weights.items():
                weight.data = self._earlier[name]
            yield self._bare
        finally:
            for name, weight in self._weights.items():
                weight.data = own[name]
            self._bare.train(training)

    def save(self, folder: Path) -> None:
        """Write the trained weights so that diffusers opens them without palate."""
        self._policy.save(folder)

    def _keep(self, step: int) -> None:
        path = self._path(step)
        partial = path.with_name(PARTIAL + path.name)
        with full_disk_explained(f"writing {path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({name: weight.detach().cpu().contiguous() for name, weight in self._weights.items()}, partial)
            partial.replace(path)

    def _take_up(self, step: int) -> None:
        path = self._path(step)
        try:
            found = load_file(path)
        except (OSError, SafetensorError) as error:
            raise PalateError(
                f"the earlier state {path} is gone or damaged, and the run draws its references from it; "
                "restore it, or begin again in another output folder"
            ) from error
        earlier = {name: torch.empty_like(weight, requires_grad=False) for name, weight in self._weights.items()}
        load_weights(earlier, found, str(path))
        self._earlier, self._drawn = earlier, step

    def _path(self, step: int) -> Path:
        return self._folder / f"step-{step:08d}.safetensors"
