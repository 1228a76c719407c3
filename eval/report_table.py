"""The report's table: each category's scores before and after, their gain, intervals and bars."""

from __future__ import annotations

import math
from enum import Enum
from html import escape

from .compare import Comparison
from .statistics import Gain, Interval

_WIDTH, _HEIGHT, _BAR = 170, 26, 8  # pixels of a row's bars
_READABLE = {"two_object": "two objects", "color_attr": "color attribution"}  # of GenEval's names
_INSET = 2  # keeps a whisker's end inside the drawing


class Notation(Enum):
    """How scores are written: as per cent with gains in points, or as plain numbers."""

    PERCENT = "percent"
    PLAIN = "plain"

    def score(self, score: float) -> str:
        """One score, such as `58.3 %`."""
        return "–" if math.isnan(score) else self._minus(f"{self._digits(score)}{_UNIT[self]}")

    def gain(self, gain: Interval) -> str:
        """A signed gain, such as `+4.1 points`."""
        return "–" if math.isnan(gain.mean) else f"{self.signed(gain.mean)}{_GAIN_UNIT[self]}"

    def signed(self, score: float) -> str:
        """A signed number without a unit, with a true minus."""
        return "–" if math.isnan(score) else self._minus(self._digits(score, "+"))

    def bounds(self, interval: Interval) -> str:
        """An interval such as `[1.2, 3.4]`."""
        if math.isnan(interval.low):
            return "unknown"
        return self._minus(f"[{self._digits(interval.low)},\u00a0{self._digits(interval.high)}]")

    def _digits(self, score: float, sign: str = "") -> str:
        number = f"{100 * score:{sign}.1f}" if self is Notation.PERCENT else f"{score:{sign}.4f}"
        return number if float(number) else number.lstrip("+-")  # no signed zero

    def _minus(self, number: str) -> str:
        return number.replace("-", "−")


_UNIT = {Notation.PERCENT: "\u202f%", Notation.PLAIN: ""}
_GAIN_UNIT = {Notation.PERCENT: " points", Notation.PLAIN: ""}


def tone(gain: Interval) -> str:
    """`better` or `worse` only where the gain's whole interval lies on one side of zero; else `unclear`."""
    return "better" if gain.low > 0 else "worse" if gain.high < 0 else "unclear"


def category_table(comparison: Comparison, notation: Notation) -> str:
    """An HTML table: one row for all prompts, then one for each category."""
    rows = [("all", comparison.overall), *comparison.by_category.items()]
    low, high = _range([gain for _, gain in rows], notation)
    body = "".join(_row(name, gain, notation, low, high) for name, gain in rows)
    return (
        '<div class="scroll"><table><thead><tr><th scope="col">Category</th><th scope="col" class="n">Prompts</th>'
        '<th scope="col" class="n">Before</th><th scope="col" class="n">After</th>'
        f'<th scope="col" class="n">Gain{", points" if notation is Notation.PERCENT else ""}</th>'
        '<th scope="col" class="bars"><span class="key before">before</span><span class="key after">after</span></th>'
        f"</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _row(name: str, row: Gain, notation: Notation, low: float, high: float) -> str:
    return (
        f'<tr><th scope="row">{escape(_READABLE.get(name, name.replace("_", " ")))}</th>'
        f'<td class="n">{row.gain.prompts}</td>'
        f'<td class="n">{notation.score(row.before.mean)}<small>{notation.bounds(row.before)}</small></td>'
        f'<td class="n">{notation.score(row.after.mean)}<small>{notation.bounds(row.after)}</small></td>'
        f'<td class="n {tone(row.gain)}">{notation.signed(row.gain.mean)}'
        f"<small>{notation.bounds(row.gain)}</small></td>"
        f'<td class="bars">{_bars(row, low, high)}</td></tr>'
    )


def _range(rows: list[Gain], notation: Notation) -> tuple[float, float]:
    """The bars' common axis: 0 to 1 for per cent, else from the least to the greatest bound, zero included."""
    if notation is Notation.PERCENT:
        return 0.0, 1.0
    ends = [end for row in rows for part in (row.before, row.after) for end in (part.low, part.mean, part.high)]
    ends = [end for end in ends if not math.isnan(end)] + [0.0]
    return min(ends), max(ends) if max(ends) > min(ends) else min(ends) + 1.0


def _bars(row: Gain, low: float, high: float) -> str:
    """Two bars from zero, before over after, each with its interval as a whisker."""

    def x(score: float) -> float:
        return _INSET + (_WIDTH - 2 * _INSET) * min(1.0, max(0.0, (score - low) / (high - low)))

    drawn = [f'<line class="axis" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="0" y2="{_HEIGHT}"/>']
    for name, part, top in (("before", row.before, 4), ("after", row.after, 4 + _BAR + 2)):
        if math.isnan(part.mean):
            continue
        left, right = sorted((x(0), x(part.mean)))
        drawn.append(
            f'<rect class="{name}" x="{left:.1f}" y="{top}" width="{right - left:.1f}" height="{_BAR}" rx="1.5"/>'
        )
        if not math.isnan(part.low):
            middle = top + _BAR / 2
            drawn.append(
                f'<line class="whisker" x1="{x(part.low):.1f}" x2="{x(part.high):.1f}" y1="{middle}" y2="{middle}"/>'
            )
    return (
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}" aria-hidden="true">'
        f"{''.join(drawn)}</svg>"
    )
