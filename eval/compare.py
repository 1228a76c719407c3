"""The comparison of a model before and after alignment, on the same prompts and seeds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .statistics import Gain, Interval, by_category, paired_gain


@dataclass(frozen=True, eq=False)
class Comparison:
    """Scores of the same prompts and seeds under two models.

    prompts, categories: one each a row; a prompt may come more than once, with other seeds. seeds: int
    `[prompts, images]`. before, after: float `[prompts, images]`; NaN where a score failed.
    """

    prompts: tuple[str, ...]
    categories: tuple[str, ...]
    seeds: np.ndarray
    before: np.ndarray
    after: np.ndarray

    def __post_init__(self) -> None:
        """Raises ValueError where the parts do not fit each other."""
        shape = np.shape(self.before)
        if len(shape) != 2 or np.shape(self.after) != shape or np.shape(self.seeds) != shape:
            raise ValueError(
                f"before {shape}, after {np.shape(self.after)} and seeds {np.shape(self.seeds)} must share "
                "one shape [prompts, images]"
            )
        if not len(self.prompts) == len(self.categories) == shape[0]:
            raise ValueError(
                f"got {len(self.prompts)} prompts and {len(self.categories)} categories for {shape[0]} rows of scores"
            )

    @cached_property
    def overall(self) -> Gain:
        """Before, after and gain over all prompts, with 95 % intervals by paired bootstrap over prompts."""
        return paired_gain(self.before, self.after, self.prompts)

    @cached_property
    def by_category(self) -> dict[str, Gain]:
        """The same within each category, in order of first appearance."""
        return by_category(self.before, self.after, self.categories, self.prompts)

    @property
    def gain(self) -> float:
        """Mean of after - before."""
        return self.overall.gain.mean

    @property
    def gain_ci95(self) -> tuple[float, float]:
        """The gain's 95 % interval."""
        return self.overall.gain.low, self.overall.gain.high

    def summary(self) -> dict[str, Any]:
        """Plain values for JSON, where a number that is unknown (no score, one prompt) is None.

        Keys: before, after, gain, before_ci95, after_ci95, gain_ci95 ([low, high]), prompts (distinct), images,
        excluded (pairs with a failed score), and categories: for each the same keys but images and categories.
        """
        return {
            **_plain(self.overall),
            "images": int(self.before.size),
            "categories": {category: _plain(gain) for category, gain in self.by_category.items()},
        }


def _plain(gain: Gain) -> dict[str, Any]:
    parts = {"before": gain.before, "after": gain.after, "gain": gain.gain}
    return {
        **{name: _number(interval.mean) for name, interval in parts.items()},
        **{f"{name}_ci95": _bounds(interval) for name, interval in parts.items()},
        "prompts": gain.gain.prompts,
        "excluded": gain.gain.excluded,
    }


def _bounds(interval: Interval) -> list[float | None]:
    return [_number(interval.low), _number(interval.high)]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
