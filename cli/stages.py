"""One progress bar for work that goes through stages, and lines of notice above it."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

_QUIET_SECONDS = 5.0  # without a terminal, a stage says how far it is this often


@contextlib.contextmanager
def stages() -> Iterator[tuple[Callable[[str], None], Callable[[str, int, int], None]]]:
    """Gives `say(line)` and `advance(stage, done, total)`; a bar in a terminal, plain lines elsewhere."""
    if not sys.stderr.isatty():
        yield _say, _plain_advance()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=console, transient=True)
    bars: dict[str, TaskID] = {}

    def advance(stage: str, done: int, total: int) -> None:
        if done < total:
            progress.start()
        if stage not in bars:
            bars[stage] = progress.add_task(stage, total=total)
        progress.update(bars[stage], completed=done, total=total, visible=done < total)
        if progress.finished:
            progress.stop()  # the training loop draws a bar of its own

    try:
        yield lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True), advance
    finally:
        progress.stop()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _plain_advance() -> Callable[[str, int, int], None]:
    last = {"stage": "", "time": 0.0}

    def advance(stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage != last["stage"] or now - last["time"] >= _QUIET_SECONDS or done == total:
            _say(f"{stage}: {done} of {total}")
            last.update(stage=stage, time=now)

    return advance
