"""What the person at the terminal sees: a live bar and the health line under it, or plain lines without a terminal."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text


class TrainingProgress:
    """A context manager; outside a terminal nothing moves and every line stays."""

    def __init__(self, steps: int, console: Console | None = None) -> None:
        self._console = console or Console()
        self._live: Live | None = None
        self._steps = steps
        self._line = "starting"

    def __enter__(self) -> TrainingProgress:
        if self._console.is_terminal:
            columns = (BarColumn(20), TaskProgressColumn(), TimeElapsedColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns)
            self._task = self._bar.add_task("", total=self._steps)
            # Two renderables, not one row of columns: on a narrow terminal the line wraps and loses nothing.
            self._live = Live(get_renderable=lambda: Group(self._bar, Text(self._line)), console=self._console)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def at(self, step: int) -> None:
        """Move the bar."""
        if self._live:
            self._bar.update(self._task, completed=step)

    def health(self, line: str) -> None:
        """Show the health line."""
        if self._live:
            self._line = line
        else:
            self.say(line)

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(Text(text), soft_wrap=True)

    def warn(self, text: str) -> None:
        """A warning that stays."""
        self._console.print(Text(f"warning: {text}", style="yellow"), soft_wrap=True)
