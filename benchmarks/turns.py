"""Two or more ways to do the same, measured in turns, so that whatever else the machine does slows all of them alike.

Each way works in a process of its own, so that its peak memory and its CPU time are its own; while one has its turn the
others wait, with no memory of a GPU's allocator kept from it.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import torch

from palate.training.memory import peak_memory_gib

Step = Callable[[], None]
Side = Callable[[Any], AbstractContextManager[Step]]
"""`side(job)`: sets itself up and gives the step to measure. A module's own function: it is sent to its process."""

_WARM_UP_STEPS = 3


@dataclass(frozen=True)
class Turn:
    """What one step of a turn took, on average; `cpu_seconds` are the process's, over all its threads."""

    seconds: float
    cpu_seconds: float
    peak_gib: float


def take_turns(sides: Mapping[str, Side], job: Any, threads: int, rounds: int, steps: int) -> dict[str, list[Turn]]:
    """`rounds` turns of `steps` steps for each side, one after the other; a first, short turn is not counted."""
    context = multiprocessing.get_context("spawn")
    turns: dict[str, list[Turn]] = {name: [] for name in sides}
    with ExitStack() as stack:
        pipes = {}
        for name, side in sides.items():
            ours, theirs = context.Pipe()
            pipes[name] = stack.enter_context(ours)
            # No daemon, for a side may have data workers of its own.
            context.Process(target=_serve, args=(side, job, threads, theirs)).start()
            theirs.close()
        for number in range(rounds + 1):
            for name, pipe in pipes.items():
                try:
                    pipe.send(steps if number else min(steps, _WARM_UP_STEPS))
                    turn = pipe.recv()
                except (EOFError, BrokenPipeError):
                    raise SystemExit(f"the {name} side has failed; see above") from None
                if number:
                    turns[name].append(turn)
    return turns


def _serve(side: Side, job: Any, threads: int, orders: Any) -> None:
    """Do as many steps as each order says and answer with a `Turn`, until the pipe is closed."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    with suppress(EOFError), side(job) as step:
        while steps := orders.recv():
            orders.send(_measure(step, steps))


def _measure(step: Step, steps: int) -> Turn:
    cuda = torch.cuda.is_available()
    if cuda:
        step()  # takes the memory again that the last turn has given back
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        step()
    if cuda:
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = peak_memory_gib(torch.device("cuda" if cuda else "cpu"))
    if cuda:
        torch.cuda.empty_cache()
    return Turn(wall / steps, cpu / steps, peak)
