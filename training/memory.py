"""Peak memory, and what to try when there is too little of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from ..errors import PalateError

_GIB = 2**30
_SIGNS = ("out of memory", "can't allocate memory", "not enough memory")


def peak_memory_gib(device: torch.device) -> float:
    """Most memory held so far, GiB: the allocator's on a GPU, the process's resident set on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / _GIB
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / _GIB if sys.platform == "darwin" else peak * 1024 / _GIB


@contextmanager
def out_of_memory_explained(micro_batch: int, others: Sequence[str] = ()) -> Iterator[None]:
    """Turn an out-of-memory error into a PalateError that says what to try; `others` are keys of the task's own."""
    try:
        yield
    except (
        RuntimeError,
        MemoryError,
    ) as error:  # torch.OutOfMemoryError is a RuntimeError, the CPU's is no more than that
        if not isinstance(error, MemoryError) and not any(sign in str(error).lower() for sign in _SIGNS):
            raise
        smaller = "".join(f"a smaller {name}, " for name in others)
        smaller += f"training.micro_batch below {micro_batch}, " if micro_batch > 1 else ""
        raise PalateError(
            f"out of memory at training.micro_batch {micro_batch}; try {smaller}training.gradient_checkpointing=true, "
            "training.precision=bf16, training.optimizer.name=adafactor, or a smaller image size; the same command "
            "goes on from the last checkpoint, if there is one"
        ) from error
