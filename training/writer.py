"""What the main process writes while it trains: metrics, trackers, pictures, and lines for the person who waits."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Any

from . import health
from .config import TrainingConfig
from .early_stop import should_stop
from .progress import TrainingProgress
from .run_folder import RunFolder
from .task import sample_path
from .trackers import MetricsFile, Row, held_out, open_trackers, validation_row


class Writer:
    """Opened for a run that goes on from `step`; whatever was written after that step is dropped."""

    def __init__(self, folder: RunFolder, config: TrainingConfig, step: int, recipe: dict[str, Any]) -> None:
        self._folder = folder
        self._config = config
        self._stack = ExitStack()
        self.metrics = MetricsFile(folder.metrics, step)
        self._stack.callback(self.metrics.close)
        self._trackers = open_trackers(config.trackers, folder.path, step, recipe)
        for tracker in self._trackers:
            self._stack.callback(tracker.close)
        self.progress = TrainingProgress(config.steps)
        self._said: set[str] = set()  # each warning once a start: what is wrong seldom goes away by itself

    def __enter__(self) -> Writer:
        self._stack.enter_context(self.progress)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def training(self, row: Row) -> None:
        """The means of the steps since the last log line."""
        self._log(row)
        self.progress.health(health.health_line(row, self._config.steps))
        for text in health.warnings(self.metrics.training, self._config.warmup_steps):
            if text not in self._said:
                self.progress.warn(text)
                self._said.add(text)

    def validation(self, step: int, numbers: dict[str, float]) -> bool:
        """Held-out numbers; whether they say that it is time to stop."""
        if numbers:
            self._log(validation_row(step, numbers))
            self.progress.say(
                f"step {step} held out: " + " · ".join(f"{key} {value:.4g}" for key, value in numbers.items())
            )
        elif self._config.early_stop:
            should_stop([numbers], self._config.early_stop)  # raises: there is nothing to watch
        return self.stopped_early

    def samples(self, step: int) -> None:
        """A step's picture of samples, if the task has drawn one."""
        path = sample_path(self._folder.samples, step)
        if path.exists():
            for tracker in self._trackers:
                tracker.picture(step, path)

    @property
    def stopped_early(self) -> bool:
        return should_stop([held_out(row) for row in self.metrics.validation], self._config.early_stop)

    def _log(self, row: Row) -> None:
        self.metrics.log(row)
        for tracker in self._trackers:
            tracker.log(row)
