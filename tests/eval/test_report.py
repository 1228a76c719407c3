import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from palate.datasets.shapes.world import Shape, render
from palate.eval.compare import Comparison
from palate.eval.report import Example, ModelSection, report_html, write_report
from palate.eval.report_table import Notation, category_table
from palate.eval.statistics import Interval

VOID = {"meta", "link", "img", "br"}
PICTURE = render([Shape("circle", "red", 10, 12, 5)])


def comparison(before, after, categories=None):
    before, after = np.array(before, dtype=float)[:, None], np.array(after, dtype=float)[:, None]
    prompts = tuple(f"prompt {n}" for n in range(len(before)))
    return Comparison(prompts, tuple(categories or ["one"] * len(before)), np.zeros_like(before), before, after)


BETTER = comparison([0, 0, 1, 0], [1, 1, 1, 1], ["color_attr", "color_attr", "two", "two"])


class Balanced(HTMLParser):
    """Collects tags and attributes; fails on a tag that is not closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open += [] if tag in VOID else [tag]
        self.addresses += [v for k, v in attrs if k in ("src", "href") and v]

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(html: str) -> Balanced:
    page = Balanced()
    page.feed(html)
    assert page.open == []
    return page


def test_the_file_is_whole_self_contained_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "new folder" / "report.html"
    model = ModelSection(
        "Tiny", BETTER, [Example("a red circle", PICTURE, PICTURE, False, True)], ["<svg></svg>"], {"a": "b"}
    )
    write_report(path, [model, model], title="Title", about="One.\n\nTwo.")
    html = path.read_text(encoding="utf-8")
    page = parsed(html)
    assert all(address.startswith(("data:", "#model-")) for address in page.addresses)
    assert "script" not in page.tags
    assert "url(" not in html
    assert "@import" not in html
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    assert html.count("<p>") == 2


def test_headline_numbers_by_hand():
    html = report_html([ModelSection("Tiny", BETTER)], title="T", about="")
    text = re.sub(r"<[^>]+>", " ", html)
    assert re.search(r"Before\s+25\.0\u202f%\s+95 % interval \[0\.0,\u00a075\.0\]", text)
    assert re.search(r"After\s+100\.0\u202f%\s+95 % interval \[100\.0,\u00a0100\.0\]", text)
    # Gains 1, 1, 0, 1: all zero has chance 1/256, at most one of four 13/256, so 2.5 % is 1/4.
    assert re.search(r"Gain\s+\+75\.0 points\s+95 % interval \[25\.0,\u00a0100\.0\]", text)
    assert "Better: the gain's whole interval lies above zero." in text
    assert "4 distinct prompts, 4 pictures each" in text


@pytest.mark.parametrize(
    ("before", "after", "reading"),
    [([0, 0], [1, 1], "Better"), ([1, 1], [0, 0], "Worse"), ([0, 1], [1, 0], "Undecided"), ([0], [1], "Undecided")],
)
def test_better_is_said_only_where_the_interval_excludes_zero(before, after, reading):
    html = report_html([ModelSection("Tiny", comparison(before, after))], title="T", about="")
    assert [word for word in ("Better:", "Worse:", "Undecided:") if word in html] == [f"{reading}:"]


def test_failed_scores_are_mentioned():
    html = report_html([ModelSection("Tiny", comparison([0, 1, np.nan], [1, 1, 1]))], title="T", about="")
    assert "1 pairs had no score and are left out" in html


def test_text_from_outside_is_escaped():
    bad = '<script>alert("x")</script>'
    example = Example(bad, PICTURE, PICTURE)
    model = ModelSection(bad, comparison([0, 1], [1, 1], [bad, bad]), [example], [], {bad: bad})
    html = report_html([model, model], title=bad, about=bad)
    assert "<script" not in html
    parsed(html)


def test_verdicts_frame_their_pictures():
    examples = [Example("first", PICTURE, PICTURE, False, True), Example("second", PICTURE, PICTURE)]
    html = report_html([ModelSection("Tiny", BETTER, examples)], title="T", about="")
    frames = re.findall(r'class="picture (\w+)"><img class="(\w+)', html)
    assert frames == [("wrong", "before"), ("right", "after"), ("unjudged", "before"), ("unjudged", "after")]
    assert html.index("first</figcaption>") < html.index("second</figcaption>")


def embedded(html: str) -> list[Image.Image]:
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall(r"image/png;base64,([^\"]+)", html)]


def test_pictures_are_embedded_as_they_are_and_large_ones_smaller():
    large = Image.new("RGB", (1024, 512), "red")
    html = report_html([ModelSection("Tiny", BETTER, [Example("p", PICTURE, large)])], title="T", about="")
    before, after = embedded(html)
    assert np.array_equal(np.asarray(before), np.asarray(PICTURE))
    assert after.size == (384, 192)
    assert large.size == (1024, 512)
    assert html.count(' pixel"') == 1  # only the small one is enlarged without smoothing


def test_the_table_has_a_row_for_all_and_each_category_and_bars_to_scale():
    html = category_table(BETTER, Notation.PERCENT)
    assert re.findall(r'<th scope="row">([^<]+)', html) == ["all", "color attribution", "two"]
    widths = [float(w) for w in re.findall(r'<rect class="\w+" x="2\.0" y="\d+" width="([\d.]+)"', html)]
    assert widths == pytest.approx([0.25 * 166, 166, 0, 166, 0.5 * 166, 166])


def test_bars_of_scores_below_zero_start_at_zero():
    html = category_table(comparison([-1.0, -1.0], [1.0, 1.0]), Notation.PLAIN)
    bars = re.findall(r'<rect class="(\w+)" x="([\d.]+)" y="\d+" width="([\d.]+)"', html)
    assert bars[:2] == [("before", "2.0", "83.0"), ("after", "85.0", "83.0")]


@pytest.mark.parametrize(
    ("notation", "mean", "score", "gain"),
    [
        (Notation.PERCENT, 0.1234, "12.3\u202f%", "+12.3 points"),
        (Notation.PERCENT, -0.1234, "−12.3\u202f%", "−12.3 points"),
        (Notation.PERCENT, -0.0001, "0.0\u202f%", "0.0 points"),
        (Notation.PLAIN, -0.5, "−0.5000", "−0.5000"),
        (Notation.PLAIN, float("nan"), "–", "–"),
    ],
)
def test_numbers_are_written_plainly(notation, mean, score, gain):
    assert notation.score(mean) == score
    assert notation.gain(Interval(mean, mean, mean, 2)) == gain


def test_an_unknown_interval_is_called_so():
    assert Notation.PERCENT.bounds(Interval(0.5, float("nan"), float("nan"), 1)) == "unknown"
    parsed(report_html([ModelSection("Tiny", comparison([0], [1]))], title="T", about=""))
    parsed(report_html([ModelSection("Tiny", comparison([np.nan], [1]))], title="T", about=""))
    parsed(report_html([], title="T", about=""))
