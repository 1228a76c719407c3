"""One HTML file that shows what alignment changed: numbers, pictures, categories, curves. No network, no scripts."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from PIL import Image

from .compare import Comparison
from .report_table import Notation, category_table, tone
from .statistics import RESAMPLES, Interval

_PICTURE_SIDE = 384  # pixels; larger pictures are embedded smaller, so that a report stays a few MB
_PIXEL_ART_SIDE = 96  # pixels; smaller pictures are enlarged without smoothing


@dataclass(frozen=True)
class Example:
    """One prompt's picture before and after, same seed. `correct` is the oracle's verdict, None where there is none."""

    prompt: str
    before: Image.Image
    after: Image.Image
    before_correct: bool | None = None
    after_correct: bool | None = None


@dataclass(frozen=True)
class ModelSection:
    """What the report says of one model.

    curves_svg: complete `<svg>` elements, put in as they are: never from outside. They may use `currentColor` and
    `var(--accent)`, which follow the light or dark page. facts: names and values such as times and versions.
    notation: how scores are written; percent for scores in [0, 1].
    """

    name: str
    comparison: Comparison
    examples: Sequence[Example] = ()
    curves_svg: Sequence[str] = ()
    facts: dict[str, str] = field(default_factory=dict)
    notation: Notation = Notation.PERCENT


def write_report(path: Path, models: Sequence[ModelSection], *, title: str, about: str) -> None:
    """Write the report to `path`, which appears only when whole; a blank line in `about` starts a new paragraph."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.with_name(f".{path.name}.tmp")
    try:
        hidden.write_text(report_html(models, title=title, about=about), encoding="utf-8")
        os.replace(hidden, path)
    finally:
        hidden.unlink(missing_ok=True)


def report_html(models: Sequence[ModelSection], *, title: str, about: str) -> str:
    """The page that `write_report` writes."""
    css = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    paragraphs = "".join(f"<p>{escape(part.strip())}</p>" for part in about.split("\n\n") if part.strip())
    contents = "".join(_card(model, number) for number, model in enumerate(models)) if len(models) > 1 else ""
    sections = "".join(_section(model, number) for number, model in enumerate(models))
    # The policy makes the browser refuse whatever is not in this file.
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>
{css}</style>
</head>
<body>
<header><h1>{escape(title)}</h1><div class="about">{paragraphs}</div></header>
<main>
{f'<nav class="cards" aria-label="Models">{contents}</nav>' if contents else ""}
{sections}
</main>
<footer>Intervals are 95 %: percentiles of {RESAMPLES:,} bootstrap resamples of the prompts, before and after paired by
prompt and seed.</footer>
</body>
</html>
"""


def _card(model: ModelSection, number: int) -> str:
    overall, write = model.comparison.overall, model.notation
    return (
        f'<a class="card" href="#model-{number}"><span class="name">{escape(model.name)}</span>'
        f'<span class="change">{write.score(overall.before.mean)} <span class="arrow">→</span> '
        f"<b>{write.score(overall.after.mean)}</b></span>"
        f'<span class="{tone(overall.gain)}">{write.gain(overall.gain)} '
        f"<small>{write.bounds(overall.gain)}</small></span></a>"
    )


def _section(model: ModelSection, number: int) -> str:
    parts = [_headline(model), _pictures(model.examples)]
    parts.append(f"<h3>By category</h3>{category_table(model.comparison, model.notation)}")
    if model.curves_svg:
        figures = "".join(f"<figure>{svg}</figure>" for svg in model.curves_svg)
        parts.append(f'<h3>Training</h3><div class="curves">{figures}</div>')
    if model.facts:
        facts = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in model.facts.items())
        parts.append(f'<h3>Times and versions</h3><dl class="facts">{facts}</dl>')
    return f'<section id="model-{number}"><h2>{escape(model.name)}</h2>{"".join(parts)}</section>\n'


def _headline(model: ModelSection) -> str:
    overall, write = model.comparison.overall, model.notation
    tiles = "".join(
        f'<div class="tile {style}"><span class="label">{label}</span><span class="number">{number}</span>'
        f'<span class="interval">95 % interval {write.bounds(interval)}</span></div>'
        for label, number, interval, style in (
            ("Before", write.score(overall.before.mean), overall.before, "before"),
            ("After", write.score(overall.after.mean), overall.after, "after"),
            ("Gain", write.gain(overall.gain), overall.gain, f"gain {tone(overall.gain)}"),
        )
    )
    pictures = model.comparison.before.size
    basis = f"{overall.gain.prompts:,} distinct prompts, {pictures:,} pictures each, from the same seeds."
    if overall.gain.excluded:
        basis += f" {overall.gain.excluded:,} pairs had no score and are left out."
    return f'<div class="tiles">{tiles}</div><p class="note">{_reading(overall.gain)} {basis}</p>'


def _reading(gain: Interval) -> str:
    return {
        "better": "Better: the gain's whole interval lies above zero.",
        "worse": "Worse: the gain's whole interval lies below zero.",
        "unclear": "Undecided: the gain's interval does not exclude zero.",
    }[tone(gain)]


def _pictures(examples: Sequence[Example]) -> str:
    if not examples:
        return ""
    cards = "".join(
        f'<figure class="pair"><div>{_picture(example.before, "before", example.before_correct)}'
        f"{_picture(example.after, 'after', example.after_correct)}</div>"
        f"<figcaption>{escape(example.prompt)}</figcaption></figure>"
        for example in examples
    )
    judged = any(e.before_correct is not None or e.after_correct is not None for e in examples)
    legend = (
        '<p class="legend">The oracle says: <span class="right">fulfils the prompt</span>'
        '<span class="wrong">does not</span></p>'
    )
    return f'<h3>Before and after</h3>{legend if judged else ""}<div class="pairs">{cards}</div>'


def _picture(picture: Image.Image, when: str, correct: bool | None) -> str:
    verdict = {True: "right", False: "wrong", None: "unjudged"}[correct]
    said = {True: ", fulfils the prompt", False: ", does not fulfil the prompt", None: ""}[correct]
    enlarged = " pixel" if max(picture.size) <= _PIXEL_ART_SIDE else ""
    return (
        f'<span class="picture {verdict}"><img class="{when}{enlarged}" src="{_png(picture)}" '
        f'alt="{when}{said}"><span class="when">{when}</span></span>'
    )


def _png(picture: Image.Image) -> str:
    """The picture as a data address."""
    small = picture.convert("RGB")
    small.thumbnail((_PICTURE_SIDE, _PICTURE_SIDE), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    small.save(data, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode('ascii')}"
