"""Line charts of training curves, as SVG text for a web page or as a picture for a model card."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle, pairwise
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

Series = Mapping[str, Sequence[tuple[float, float]]]
Point = tuple[float, float]

# Okabe and Ito's colours, which colour-blind readers tell apart.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_INK, _GREY, _GRID = "#222222", "#666666", "#e3e3e3"
_SMOOTH = 3  # the picture is drawn this many times larger and then reduced, for smooth edges
_LARGEST = 1e300  # beyond it the width of an axis would overflow


class _Line(NamedTuple):
    points: list[Point]
    colour: str
    width: float


class _Dot(NamedTuple):
    x: float
    y: float
    colour: str


class _Text(NamedTuple):
    x: float
    y: float  # of the middle of the letters
    text: str
    anchor: str  # start, middle or end
    size: int
    colour: str


_Mark = _Line | _Dot | _Text


class _Axis(NamedTuple):
    """Values from `low` to `high`, drawn from pixel `start` to pixel `end`."""

    low: float
    high: float
    start: float
    end: float
    ticks: list[float]

    def __call__(self, value: float) -> float:
        return self.start + (self.end - self.start) * (value - self.low) / (self.high - self.low)


def line_chart_svg(series: Series, title: str, width: int = 480, height: int = 300) -> str:
    """Lines through `(x, y)` points, one a series, as one `<svg>` element.

    A point that is not finite leaves a gap; without any point the chart says so. Long series are thinned to what the
    width can show, extremes kept.
    """
    name = html.escape(_printable(title))
    body = "".join(_svg(mark) for mark in _marks(series, title, width, height))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" aria-label="{name}" font-family="system-ui, sans-serif">'
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>{body}</svg>'
    )


def line_chart_png(series: Series, title: str, width: int = 480, height: int = 300) -> Image.Image:
    """The same chart as an RGB picture."""
    picture = Image.new("RGB", (width * _SMOOTH, height * _SMOOTH), "#ffffff")
    draw = ImageDraw.Draw(picture)
    for mark in _marks(series, title, width, height):
        _draw(draw, mark)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _marks(series: Series, title: str, width: int, height: int) -> Iterator[_Mark]:
    """Everything on the chart, from the back to the front, in pixels of the finished size."""
    yield _Text(12, 16, _printable(title), "start", 14, _INK)
    legend, top = _legend(list(series), width)
    yield from legend
    shown = [_thinned(list(points), width) for points in series.values()]
    finite = [point for points in shown for point in points if _is_finite(point)]
    bottom, right = height - 26, width - 20
    if not finite:
        yield _Line([(14, bottom), (right, bottom)], _GREY, 1)
        yield _Text(width / 2, (top + bottom) / 2, "no data", "middle", 13, _GREY)
        return
    vertical = _axis([y for _, y in finite], bottom, top, max(2, round((bottom - top) / 45)))
    left = 14 + max(_text_width(label, 11) for label in _labels(vertical.ticks))
    horizontal = _axis([x for x, _ in finite], left, right, max(3, round((right - left) / 90)), snug=True)
    yield from _frame(horizontal, vertical)
    for points, colour in zip(shown, cycle(_COLOURS), strict=False):
        yield from _curve(points, horizontal, vertical, colour)


def _frame(horizontal: _Axis, vertical: _Axis) -> Iterator[_Mark]:
    left, right, bottom = horizontal.start, horizontal.end, vertical.start
    for value, label in zip(vertical.ticks, _labels(vertical.ticks), strict=True):
        y = vertical(value)
        yield _Line([(left, y), (right, y)], "#a0a0a0" if value == 0 else _GRID, 1)
        yield _Text(left - 6, y, label, "end", 11, _GREY)
    yield _Line([(left, bottom), (right, bottom)], _GREY, 1)
    for value, label in zip(horizontal.ticks, _labels(horizontal.ticks), strict=True):
        x = horizontal(value)
        yield _Line([(x, bottom), (x, bottom + 4)], _GREY, 1)
        yield _Text(x, bottom + 13, label, "middle", 11, _GREY)


def _curve(points: list[Point], horizontal: _Axis, vertical: _Axis, colour: str) -> Iterator[_Mark]:
    """One line for each run of finite points; a lone point is a dot."""
    run: list[Point] = []
    for point in [*points, (math.nan, math.nan)]:
        if _is_finite(point):
            run.append((horizontal(point[0]), vertical(point[1])))
            continue
        if len(run) == 1:
            yield _Dot(*run[0], colour)
        elif run:
            yield _Line(run, colour, 1.8)
        run = []


def _legend(names: list[str], width: int) -> tuple[list[_Mark], float]:
    """The marks of the legend under the title, in as many rows as it needs, and where the chart begins."""
    marks: list[_Mark] = []
    x, y = 12.0, 38.0
    for name, colour in zip(names, cycle(_COLOURS), strict=False):
        text = _printable(name)
        needed = 22 + _text_width(text, 12) + 16
        if x > 12 and x + needed > width:
            x, y = 12.0, y + 18
        marks += [_Line([(x, y), (x + 16, y)], colour, 3), _Text(x + 22, y, text, "start", 12, _INK)]
        x += needed
    return marks, y + 20 if names else 40


def _axis(values: list[float], start: float, end: float, count: int, snug: bool = False) -> _Axis:
    """Round ticks at steps of 1, 2 or 5 times a power of ten (Heckbert, Graphics Gems 1990, p. 61), about `count`.

    The axis ends at its outer ticks, or at the data where it is `snug`.
    """
    low, high = min(values), max(values)
    if high - low <= max(1e-12 * max(abs(low), abs(high)), 1e-290):  # one value, or steps too small for its digits
        half = abs(low) / 10 if abs(low) > 1e-280 else 1.0
        low, high = low - half, high + half
    exact = (high - low) / count
    power = 10.0 ** math.floor(math.log10(exact))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= exact * 0.999)
    slack = 1e-9  # a tick that rounding puts beside the end of the data is at its end
    if snug:
        first, last = math.ceil(low / step - slack), math.floor(high / step + slack)
    else:
        first, last = math.floor(low / step + slack), math.ceil(high / step - slack)
    ticks = [i * step for i in range(first, last + 1)]
    return _Axis(low, high, start, end, ticks) if snug else _Axis(ticks[0], ticks[-1], start, end, ticks)


def _labels(ticks: list[float]) -> list[str]:
    """Ticks as text, with no more digits than tell them apart."""
    largest = max(abs(tick) for tick in ticks)
    step = min((b - a for a, b in pairwise(ticks)), default=largest) or 1.0
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    if decimals <= 4 and largest < 1e5:
        return [f"{tick:.{decimals}f}" for tick in ticks]
    digits = max(0, math.floor(math.log10(largest)) - math.floor(math.log10(step) + 1e-9))
    return ["0" if tick == 0 else _exponent(f"{tick:.{digits}e}") for tick in ticks]


def _exponent(number: str) -> str:
    mantissa, exponent = number.split("e")
    return f"{mantissa}e{int(exponent)}"


def _thinned(points: list[Point], width: int) -> list[Point]:
    """At most about four points a pixel column: the first, the lowest, the highest and the last, gaps kept."""
    if len(points) <= 4 * width:
        return points
    size = math.ceil(len(points) / width)
    kept: list[Point] = []
    for start in range(0, len(points), size):
        bucket = points[start : start + size]
        finite = [i for i, point in enumerate(bucket) if _is_finite(point)]
        gaps = [i for i, point in enumerate(bucket) if not _is_finite(point)][:1]
        outer = [min(finite, key=lambda i: bucket[i][1]), max(finite, key=lambda i: bucket[i][1])] if finite else []
        kept += [bucket[i] for i in sorted({*finite[:1], *outer, *finite[-1:], *gaps})]
    return kept


def _is_finite(point: Point) -> bool:
    return all(math.isfinite(value) and abs(value) < _LARGEST for value in point)


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _text_width(text: str, size: int) -> float:
    # Browsers' own fonts are wider than Pillow's.
    return 1.15 * ImageFont.load_default(size).getlength(text)


def _svg(mark: _Mark) -> str:
    match mark:
        case _Line(points, colour, width):
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            return (
                f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}" '
                'stroke-linejoin="round"/>'
            )
        case _Dot(x, y, colour):
            return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'
        case _Text(x, y, text, anchor, size, colour):
            return (
                f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" dominant-baseline="central" '
                f'font-size="{size}" fill="{colour}">{html.escape(text)}</text>'
            )


def _draw(draw: ImageDraw.ImageDraw, mark: _Mark) -> None:
    match mark:
        case _Line(points, colour, width):
            scaled = [(x * _SMOOTH, y * _SMOOTH) for x, y in points]
            draw.line(scaled, colour, round(width * _SMOOTH), joint="curve")
        case _Dot(x, y, colour):
            draw.circle((x * _SMOOTH, y * _SMOOTH), 3 * _SMOOTH, colour)
        case _Text(x, y, text, anchor, size, colour):
            font = ImageFont.load_default(size * _SMOOTH)
            draw.text(
                (x * _SMOOTH, y * _SMOOTH), text, colour, font, {"start": "lm", "middle": "mm", "end": "rm"}[anchor]
            )
