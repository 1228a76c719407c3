"""Charts: where the points land, what the ticks say, and what happens without numbers to draw."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.training.curves import line_chart_png, line_chart_svg

NAMESPACE = "{http://www.w3.org/2000/svg}"
BLUE, VERMILION = "#0072b2", "#d55e00"


def texts(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter(f"{NAMESPACE}text")]


def lines(svg, colour=BLUE):
    """The curves of a colour as lists of pixels; the legend's swatch, 3 wide, is left out."""
    found = ElementTree.fromstring(svg).iter(f"{NAMESPACE}polyline")
    return [
        [tuple(float(value) for value in point.split(",")) for point in line.get("points").split()]
        for line in found
        if line.get("stroke") == colour and line.get("stroke-width") == "1.8"
    ]


def dots(svg):
    return [element.attrib for element in ElementTree.fromstring(svg).iter(f"{NAMESPACE}circle")]


def test_points_are_placed_in_proportion():
    [[first, middle, last]] = lines(line_chart_svg({"a": [(0, 0.0), (25, 1.0), (100, 4.0)]}, "t"))
    assert (middle[0] - first[0]) / (last[0] - first[0]) == pytest.approx(0.25, abs=0.002)
    assert (middle[1] - first[1]) / (last[1] - first[1]) == pytest.approx(0.25, abs=0.002)
    assert last[1] < first[1]  # up is more
    assert last[0] == 460  # the axis ends with the data


def test_ticks_are_round_and_labelled_alike():
    found = texts(line_chart_svg({"loss": [(0, 0.6931), (1000, 0.6312)]}, "Loss"))
    assert found[:2] == ["Loss", "loss"]
    assert [text for text in found if text.startswith("0.")] == ["0.62", "0.64", "0.66", "0.68", "0.70"]
    assert found[-6:] == ["0", "200", "400", "600", "800", "1000"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0.0, 4e-6), ["0", "1e-6", "2e-6", "3e-6", "4e-6"]),
        ((-2e5, 2e5), ["-2e5", "-1e5", "0", "1e5", "2e5"]),
        ((1.0e7, 1.2e7), ["1.00e7", "1.05e7", "1.10e7", "1.15e7", "1.20e7"]),
        ((3.0, 3.0), ["2.6", "2.8", "3.0", "3.2", "3.4"]),
        ((0.0, 0.0), ["-1.0", "-0.5", "0.0", "0.5", "1.0"]),
    ],
)
def test_vertical_labels(values, expected):
    found = texts(line_chart_svg(dict(zip("ab", [[(0, value)] for value in values], strict=True)), "t"))
    assert found[3 : 3 + len(expected)] == expected


def test_numbers_that_are_not_finite_leave_gaps():
    points = [(0, 1.0), (1, 2.0), (2, math.nan), (3, 1.5), (4, math.inf), (5, 1.2), (6, 1.1)]
    svg = line_chart_svg({"a": points}, "t")
    assert [len(line) for line in lines(svg)] == [2, 2]
    assert len(dots(svg)) == 1


def test_each_series_has_its_colour_and_its_name():
    svg = line_chart_svg({"winner": [(0, 0), (1, 1)], "empty": [], "loser": [(0, 0), (1, -1)]}, "t")
    assert len(lines(svg, BLUE)) == 1
    assert lines(svg, VERMILION) == []
    assert len(lines(svg, "#009e73")) == 1
    assert {"winner", "empty", "loser"} <= set(texts(svg))


def test_a_wide_legend_takes_more_rows():
    names = [f"a series with the long name {i}" for i in range(4)]
    svg = line_chart_svg({name: [(0, 0), (1, 1)] for name in names}, "t", width=300)
    placed = {
        element.text: (float(element.get("x")), float(element.get("y")))
        for element in ElementTree.fromstring(svg).iter(f"{NAMESPACE}text")
        if element.text in names
    }
    assert len({y for _, y in placed.values()}) == 4
    assert max(y for _, y in placed.values()) < min(y for line in lines(svg) for _, y in line)


@pytest.mark.parametrize("series", [{}, {"a": []}, {"a": [(0, math.nan), (math.inf, 1)]}], ids=["none", "empty", "nan"])
def test_without_data_the_chart_says_so(series):
    svg = line_chart_svg(series, "t")
    assert "no data" in texts(svg)
    assert line_chart_png(series, "t").size == (480, 300)


def test_titles_and_names_are_escaped():
    svg = line_chart_svg({"a<b>&\"'": [(0, 1)]}, '</svg><script>"x"\x00')
    assert texts(svg)[:2] == ['</svg><script>"x" ', "a<b>&\"'"]
    assert "<script" not in svg


def test_a_long_series_is_thinned_and_keeps_its_spike():
    points = [(float(i), 0.0) for i in range(100_000)]
    points[77_777] = (77_777.0, 5.0)
    points[40_000] = (40_000.0, math.nan)
    svg = line_chart_svg({"a": points}, "t")
    drawn = lines(svg)
    assert len(svg) < 60_000
    assert len(drawn) == 2  # the gap is there too
    assert len([y for line in drawn for _, y in line if y < 100]) == 1


def test_the_picture_shows_what_the_text_says():
    series = {"a": [(0, 0.0), (100, 1.0)], "b": [(0, 1.0), (100, 1.0)]}
    [[left, right]] = lines(line_chart_svg(series, "t"))
    picture = line_chart_png(series, "t")
    for share in (0.25, 0.5, 0.75):
        x, y = (a + share * (b - a) for a, b in zip(left, right, strict=True))
        red, green, blue = picture.getpixel((round(x - 0.5), round(y - 0.5)))
        assert blue > red + 60  # near #0072b2, blended with white
        assert picture.getpixel((round(x), round(y) + 20)) != (red, green, blue)
    assert picture.mode == "RGB"
    assert picture.getpixel((479, 0)) == (255, 255, 255)


def test_a_narrow_chart_still_has_a_tick_below():
    svg = line_chart_svg({"a": [(0.5, 0.0), (4.7, 1.0)]}, "t", width=150)
    assert texts(svg)[-2:] == ["2", "4"]


numbers = st.floats() | st.floats(-1, 1) | st.sampled_from([0.0, 1e-320, -1e-300, 1e299, -1e308, 1e15, 1e15 + 1])


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.text(max_size=8), st.lists(st.tuples(numbers, numbers), max_size=6), max_size=3), st.text())
def test_any_numbers_and_names_give_a_well_formed_chart(series, title):
    svg = line_chart_svg(series, title, 320, 200)
    coordinates = re.findall(r'\b(?<!-)(?:points|x|y|cx|cy)="([^"]*)"', svg)
    assert all(math.isfinite(float(value)) for text in coordinates for value in re.split("[ ,]", text))
    ElementTree.fromstring(svg)
    for line in lines(svg):
        assert all(0 <= x <= 320 and 0 <= y <= 200 for x, y in line)
