"""Confidence intervals by bootstrap over prompts, not over pictures: pictures of one prompt err together."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
_CHUNK = 4_000_000  # resampled indices that are held at once


@dataclass(frozen=True)
class Interval:
    """A mean with its percentile interval.

    `prompts`: the distinct prompts behind it. `excluded`: the scores (for a gain: pairs of scores) that were NaN and
    are not in it. Without any score the mean is NaN; with a single prompt the bounds are NaN, for one prompt says
    nothing about the spread between prompts.
    """

    mean: float
    low: float
    high: float
    prompts: int
    excluded: int = 0


@dataclass(frozen=True)
class Gain:
    """Scores before and after, each with its interval, and the paired gain, all over the same pictures."""

    before: Interval
    after: Interval
    gain: Interval


def mean_interval(
    scores: np.ndarray,
    prompts: Sequence[Hashable] | None = None,
    *,
    resamples: int = RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The mean score and its interval: the cluster bootstrap's percentiles (Efron 1979; Davison and Hinkley 1997, 3.8).

    scores: `[prompts]` or `[prompts, images]`; images are averaged within their prompt first, NaN left out.
    prompts: what tells rows apart. Rows with equal entries are one prompt drawn again: they are resampled together,
    and the mean stays the mean over rows. Without it every row is its own prompt.

    Percentile intervals are a little too short for few prompts: a simulated 95 % covers 90 % at 11 prompts, 94 to 95 %
    from 40 on.

    Raises:
        ValueError: scores are not one- or two-dimensional, prompts do not match the rows, or a setting is out of range.
    """
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(f"got resamples={resamples} and level={level}; expected at least 1, and between 0 and 1")
    table = _as_table(scores)
    if prompts is not None and len(prompts) != len(table):
        raise ValueError(f"got {len(prompts)} prompts for {len(table)} rows of scores; expected one a row")
    excluded = int(np.isnan(table).sum())
    kept = np.flatnonzero(~np.isnan(table).all(axis=1)) if table.size else np.empty(0, dtype=int)
    if not len(kept):
        return Interval(math.nan, math.nan, math.nan, 0, excluded)
    rows = np.nanmean(table[kept], axis=1)
    if prompts is None:
        sums, weights = rows, np.ones(len(rows))
    else:
        numbers: dict[Hashable, int] = {}
        clusters = [numbers.setdefault(prompts[row], len(numbers)) for row in kept.tolist()]
        sums, weights = np.bincount(clusters, rows), np.bincount(clusters).astype(float)
    low, high = _percentiles(sums, weights, resamples, level, seed)
    return Interval(float(rows.mean()), low, high, len(sums), excluded)


def paired_gain(
    before: np.ndarray,
    after: np.ndarray,
    prompts: Sequence[Hashable] | None = None,
    *,
    resamples: int = RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> Gain:
    """The mean of after - before with its interval, paired picture by picture: same prompt, same seed.

    before, after: `[prompts]` or `[prompts, images]`, `prompts` as in `mean_interval`. A pair with NaN on either side
    is left out of all three means, so that the gain is exactly the difference of the other two.

    Raises:
        ValueError: the shapes differ, and as in `mean_interval`.
    """
    before, after = _as_table(before), _as_table(after)
    if before.shape != after.shape:
        raise ValueError(f"before has shape {before.shape}, after {after.shape}; a paired gain needs the same pictures")
    gain = after - before
    unpaired = np.isnan(gain)
    before, after = np.where(unpaired, np.nan, before), np.where(unpaired, np.nan, after)
    one, two, difference = (
        mean_interval(scores, prompts, resamples=resamples, level=level, seed=seed) for scores in (before, after, gain)
    )
    return Gain(one, two, difference)


def by_category(
    before: np.ndarray,
    after: np.ndarray,
    categories: Sequence[str],
    prompts: Sequence[Hashable] | None = None,
    *,
    resamples: int = RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Gain]:
    """`paired_gain` within each category, in order of first appearance; `categories` has one entry a row.

    Raises:
        ValueError: categories do not match the rows, and as in `paired_gain`.
    """
    if len(categories) != len(before):
        raise ValueError(f"got {len(categories)} categories for {len(before)} rows of scores; expected one a row")
    table = {}
    for category in dict.fromkeys(categories):
        rows = [row for row, name in enumerate(categories) if name == category]
        names = None if prompts is None else [prompts[row] for row in rows]
        table[category] = paired_gain(
            np.asarray(before)[rows], np.asarray(after)[rows], names, resamples=resamples, level=level, seed=seed
        )
    return table


def _as_table(scores: np.ndarray) -> np.ndarray:
    """float64 `[prompts, images]`; float32 would round the gain differently from the means."""
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim not in (1, 2):
        raise ValueError(f"scores have shape {scores.shape}; expected [prompts] or [prompts, images]")
    return scores[:, None] if scores.ndim == 1 else scores


def _percentiles(sums: np.ndarray, weights: np.ndarray, resamples: int, level: float, seed: int) -> tuple[float, float]:
    """The interval's bounds for sum(sums) / sum(weights), clusters `[c]` drawn with replacement."""
    count = len(sums)
    if count == 1:
        return math.nan, math.nan
    rates = sums / weights
    if (rates == rates[0]).all():  # exactly, where sums of equal numbers would be off by a rounding error
        return float(rates[0]), float(rates[0])
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    step = max(1, _CHUNK // count)
    for start in range(0, resamples, step):
        drawn = generator.integers(count, size=(min(step, resamples - start), count))
        means[start : start + len(drawn)] = sums[drawn].sum(axis=1) / weights[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
