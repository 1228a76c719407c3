"""How well scores agree with people on held-out comparisons: accuracy by three rules of ties, likelihood, calibration.

A score difference Δ says that the first candidate is preferred with probability σ(Δ). All functions take plain arrays
of n comparisons, `difference` (first minus second) and `outcome` (1 the first was preferred, -1 the second, 0 a tie).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit

THRESHOLDS = tuple(step / 10 for step in range(11))  # the ones that PickScore's authors try
_BINS = 10
_COLDEST, _HOTTEST = 1e-3, 1e3


@dataclass(frozen=True)
class Agreement:
    """Numbers of one set of comparisons; NaN where nothing defines them.

    comparisons          all pairs, ties among them
    ties                 pairs that were labelled as ties
    accuracy             of the decided pairs; an equal score counts half
    accuracy_half        of all pairs; a labelled tie counts half, whatever the scores
    accuracy_threshold   of all pairs by PickScore's rule: a tie is predicted where the probabilities differ by
                         `tie_threshold` or less; right counts 1, a tie on one side alone ½
    tie_threshold        the one of 0, 0.1, ... 1 that gives the most, chosen on these very pairs
    nll                  mean of -log σ(Δ of the preferred) over the decided pairs
    calibration_error    expected calibration error of the decided pairs over ten bins of confidence
    temperature          T that makes the likelihood of σ(Δ / T) the largest: above 1, the scores are too sure
    calibrated_error     the calibration error with it, on the pairs that it was fitted to
    """

    comparisons: int
    ties: int
    accuracy: float
    accuracy_half: float
    accuracy_threshold: float
    tie_threshold: float
    nll: float
    calibration_error: float
    temperature: float
    calibrated_error: float


def agreement(difference: np.ndarray, outcome: np.ndarray, threshold: float | None = None) -> Agreement:
    """All numbers of a set of comparisons.

    Args:
        threshold: of ties, where it was chosen elsewhere.
    """
    difference, outcome = np.asarray(difference, dtype=np.float64), np.asarray(outcome, dtype=np.float64)
    decided = outcome != 0
    advantage = (difference * outcome)[decided]
    if threshold is None:
        threshold = tie_threshold(difference, outcome)
    right = np.where(decided, _heaviside(difference * outcome), 0.5)
    temperature = fit_temperature(advantage)
    return Agreement(
        comparisons=len(outcome),
        ties=int((~decided).sum()),
        accuracy=_mean(_heaviside(advantage)),
        accuracy_half=_mean(right),
        accuracy_threshold=_mean(_threshold_points(difference, outcome, threshold)),
        tie_threshold=threshold,
        nll=_mean(-log_expit(advantage)),
        calibration_error=calibration_error(advantage),
        temperature=temperature,
        calibrated_error=calibration_error(advantage / temperature),
    )


def report(difference: np.ndarray, outcome: np.ndarray, sources: Sequence[str]) -> dict[str, Any]:
    """`agreement` of all comparisons and of each source's, as JSON values; the sources share one threshold of ties."""
    whole = agreement(difference, outcome)
    names = np.asarray(sources)
    by_source = {
        str(name): _plain(agreement(difference[names == name], outcome[names == name], whole.tie_threshold))
        for name in sorted(set(sources))
    }
    return {**_plain(whole), "by_source": by_source}


def tie_threshold(difference: np.ndarray, outcome: np.ndarray) -> float:
    """The threshold of `THRESHOLDS` with the most points; the lowest of equals. NaN where there is no comparison."""
    if not len(outcome):
        return math.nan
    return max(THRESHOLDS, key=lambda threshold: _threshold_points(difference, outcome, threshold).sum())


def calibration_error(advantage: np.ndarray) -> float:
    """Σ_b n_b / n |share right - mean confidence| over ten bins of the confidence max(p, 1 - p), from ½ to 1.

    Guo et al. 2017, arXiv 1706.04599. NaN where there is no comparison.
    """
    if not len(advantage):
        return math.nan
    confidence = expit(np.abs(advantage))
    bins = np.minimum(((confidence - 0.5) * 2 * _BINS).astype(int), _BINS - 1)
    gaps = np.bincount(bins, weights=_heaviside(advantage) - confidence, minlength=_BINS)
    return float(np.abs(gaps).sum() / len(advantage))


def fit_temperature(advantage: np.ndarray) -> float:
    """T that minimises the mean of -log σ(advantage / T), between 1/1000 and 1000; NaN where there is no comparison."""
    if not len(advantage):
        return math.nan
    # Convex in 1 / T, and so with one minimum in log T.
    found: Any = minimize_scalar(
        lambda log: -log_expit(advantage * math.exp(-log)).mean(),
        bounds=(math.log(_COLDEST), math.log(_HOTTEST)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return math.exp(found.x)


def table(numbers: dict[str, Any]) -> list[str]:
    """A report as lines of text, one a source."""
    columns = ("comparisons", "ties", "accuracy", "accuracy_half", "accuracy_threshold", "nll", "calibration_error")
    titles = ("source", "pairs", "ties", "decided", "half", "threshold", "nll", "calibration")
    rows = [(name, *(_shown(part[key]) for key in columns)) for name, part in numbers["by_source"].items()]
    rows.append(("all", *(_shown(numbers[key]) for key in columns)))
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    aligned = [_line(row, widths) for row in (titles, *rows)]
    threshold, temperature = (_shown(numbers[key]) for key in ("tie_threshold", "temperature"))
    now, then = numbers["calibration_error"], numbers["calibrated_error"]
    better = then is not None and then < now  # the likelihood's temperature need not be the calibration's
    return [
        *aligned,
        f"threshold: a tie is predicted where the probabilities differ by {threshold} or less",
        f"temperature fitted to the likelihood: {temperature}"
        + (f", which would make the calibration error {_shown(then)}" if better else ""),
    ]


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    name, *numbers = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
    return "  ".join([name.strip().ljust(widths[0]), *numbers])


def _threshold_points(difference: np.ndarray, outcome: np.ndarray, threshold: float) -> np.ndarray:
    gap = np.abs(np.tanh(difference / 2))  # |p1 - p0| of the softmax over two scores
    predicted = np.where(gap <= threshold, 0, np.sign(difference))
    one_tie = (predicted == 0) != (outcome == 0)
    return np.where(predicted == outcome, 1.0, np.where(one_tie, 0.5, 0.0))


def _heaviside(values: np.ndarray) -> np.ndarray:
    return np.heaviside(values, 0.5)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan


def _plain(numbers: Agreement) -> dict[str, Any]:
    return {name: None if value != value else value for name, value in asdict(numbers).items()}


def _shown(value: float | int | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
