"""When a held-out number has stopped improving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import UserError
from .config import EarlyStopConfig


def validations_since_best(values: Sequence[float], mode: str) -> int:
    """How many values came after the best one; the first of equals counts, a NaN never improves."""
    best, place = float("-inf"), 0
    for index, value in enumerate(values):
        score = value if mode == "max" else -value
        if score > best:
            best, place = score, index
    return len(values) - 1 - place


def should_stop(validations: Sequence[Mapping[str, float]], config: EarlyStopConfig | None) -> bool:
    """Whether the last `patience` validations brought nothing better; given are all of the run's, oldest first.

    Raises UserError when the watched number is not among them.
    """
    if config is None or not validations:
        return False
    for numbers in validations:
        if config.metric not in numbers:
            known = ", ".join(sorted(numbers)) or "none: the run has no validation data"
            raise UserError(f"training.early_stop.metric {config.metric!r} is no validation number; there are {known}")
    return validations_since_best([numbers[config.metric] for numbers in validations], config.mode) >= config.patience
