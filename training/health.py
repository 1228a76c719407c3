"""Is it learning? Plain words from the logged numbers. Pure functions on rows, the newest last."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..errors import PalateError

Row = dict[str, float]

_WINDOW = 10
_FEWEST = 5
_PATIENCE = 200  # steps that a healthy run may sit at loss 0.69

ONLY_LOSER = (
    "the margin grows only because the loser gets worse: the winner is explained no better than by the reference; "
    "lower training.learning_rate, stop earlier, or use a method with a winner anchor"
)
SATURATED = (
    "sigmoid saturated: the mean gradient factor is below 0.05, so hardly anything is learned of preferences; lower "
    "method.beta (mapo: method.snr or method.steps)"
)
NOTHING_MOVES = (
    "nothing moves: gradient factor 0.5 and margin 0 after many steps; raise beta or training.learning_rate, "
    "and check that the labels are not all ties"
)
NO_PAIRS = (
    "no prompt has brought a pair for many steps, so nothing is learned: lower method.threshold (spo), and see whether "
    "the judge tells the candidates apart"
)
OVERFLOWS = "fp16 overflows in most steps, which are skipped; use training.precision=bf16"


def warnings(rows: Sequence[Row], warmup_steps: int = 0) -> list[str]:
    """What is going wrong, by the last logged rows; [] when nothing is or when it is too early to tell."""
    recent = rows[-_WINDOW:]
    if len(recent) < _FEWEST:
        return []
    rules = {
        ONLY_LOSER: _only_loser(recent),
        SATURATED: _mean(recent, "gradient_factor") < 0.05,
        NOTHING_MOVES: rows[-1].get("step", 0) >= warmup_steps + _PATIENCE and _nothing_moves(recent),
        NO_PAIRS: _mean(recent, "valid_pairs") == 0,
        OVERFLOWS: _mean(recent, "skipped") > 0.5,
    }
    return [text for text, holds in rules.items() if holds]


def require_finite(rows: Sequence[Row], first_step: int, precision: str, batch_size: int) -> None:
    """Raise PalateError if a step's loss, or its gradient, was not finite; rows are single steps from `first_step` on.

    Under fp16 a gradient that overflows is normal: the scaler skips that step.
    """
    for step, row in enumerate(rows, first_step):
        bad = [key for key in ("loss", "grad_norm") if not math.isfinite(row[key])]
        if not bad or (bad == ["grad_norm"] and precision == "fp16"):
            continue
        name = "loss" if "loss" in bad else "gradient"
        value = row["loss" if "loss" in bad else "grad_norm"]
        visits = f"visits {(step - 1) * batch_size} to {step * batch_size - 1}"
        raise PalateError(
            f"the {name} of step {step} is {value} ({visits}); training stops and the "
            "last good checkpoint is kept; look for damaged data in those groups, lower training.learning_rate, "
            "or use training.precision=bf16 or no"
        )


def health_line(row: Row, steps: int) -> str:
    """One line: step, loss, winner and loser against the reference, margin, accuracy, gradient, speed, memory, MFU."""
    shown = [
        f"step {int(row['step'])}/{steps}",
        _part(row, "loss", "loss {:.4f}"),
        _part(row, "winner_gain", "winner {:+.2e}"),
        _part(row, "loser_gain", "loser {:+.2e}"),
        _part(row, "margin", "margin {:+.2e}"),
        _part(row, "reward", "reward {:.3g}"),
        _part(row, "valid_pairs", "pairs {:.0%}"),
        _part(row, "accuracy", "accuracy {:.0%}"),
        _part(row, "gradient_factor", "gradient factor {:.2f}"),
        _part(row, "grad_norm", "grad {:.2e}"),
        _part(row, "groups_per_second", "{:.3g} groups/s"),
        _part(row, "peak_memory_gib", "{:.1f} GiB"),
        _part(row, "mfu", "MFU {:.0%}"),
    ]
    return " · ".join(part for part in shown if part)


def _part(row: Row, key: str, pattern: str) -> str:
    return pattern.format(row[key]) if math.isfinite(row.get(key, math.nan)) else ""


def _values(rows: Sequence[Row], key: str) -> list[float]:
    return [row[key] for row in rows if math.isfinite(row.get(key, math.nan))]


def _mean(rows: Sequence[Row], key: str) -> float:
    values = _values(rows, key)
    return math.fsum(values) / len(values) if values else math.nan


def _clearly_negative(values: list[float]) -> bool:
    # Two standard errors: at the start both gains are noise around zero.
    count = len(values)
    if count < _FEWEST:
        return False
    mean = math.fsum(values) / count
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return mean < -2 * math.sqrt(variance / count)


def _only_loser(rows: Sequence[Row]) -> bool:
    half = len(rows) // 2
    grows = _mean(rows, "margin") > 0 and _mean(rows[:half], "margin") < _mean(rows[half:], "margin")
    return grows and _clearly_negative(_values(rows, "loser_gain")) and _mean(rows, "winner_gain") <= 0


def _nothing_moves(rows: Sequence[Row]) -> bool:
    # The temperature turns the margin into the sigmoid's argument, where 0.01 is nothing.
    temperature = _mean(rows, "temperature")
    argument = abs(_mean(rows, "margin")) * (temperature if math.isfinite(temperature) else 1.0)
    return abs(_mean(rows, "gradient_factor") - 0.5) < 0.005 and argument < 0.01
