"""When a held-out number has stopped improving."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

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


def require_metric(known: Collection[str], config: EarlyStopConfig) -> None:
    """Raise UserError unless the watched number is among the `known` names of a validation's numbers."""
    if config.metric not in known:
        names = ", ".join(sorted(known)) or "none: the run has no validation data"
        raise UserError(f"training.early_stop.metric {config.metric!r} is no validation number; there are {names}")


def should_stop(validations: Sequence[Mapping[str, float]], config: EarlyStopConfig | None) -> bool:
    """Whether the last `patience` validations brought nothing better; given are all of the run's, oldest first.

    Raises UserError when the watched number is not among them.
    """
    if config is None or not validations:
        return False
    for numbers in validations:
        require_metric(numbers, config)
    return validations_since_best([numbers[config.metric] for numbers in validations], config.mode) >= config.patience
