"""What the person at the terminal sees: a live bar with the health line, or plain lines where there is no terminal."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text


class TrainingProgress:
    """A context manager; outside a terminal nothing moves and every line stays."""

    def __init__(self, steps: int, console: Console | None = None) -> None:
        self._console = console or Console()
        self._live: Progress | None = None
        self._steps = steps

    def __enter__(self) -> TrainingProgress:
        if self._console.is_terminal:
            columns = (BarColumn(20), TaskProgressColumn(), TimeElapsedColumn(), TimeRemainingColumn())
            line = TextColumn("{task.description}", markup=False)
            live = Progress(*columns, line, console=self._console)
            self._bar = live.add_task("starting", total=self._steps)
            live.start()
            self._live = live
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def at(self, step: int) -> None:
        """Move the bar."""
        if self._live:
            self._live.update(self._bar, completed=step)

    def health(self, line: str) -> None:
        """Show the health line."""
        if self._live:
            self._live.update(self._bar, description=line)
        else:
            self.say(line)

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(Text(text), soft_wrap=True)

    def warn(self, text: str) -> None:
        """A warning that stays."""
        self._console.print(Text(f"warning: {text}", style="yellow"), soft_wrap=True)
