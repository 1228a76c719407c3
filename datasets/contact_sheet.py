"""A picture of some groups with their prompts and labels: what the set looks like before anything is trained on it."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from .fonts import Font, font_for
from .group import Group
from .images import UnreadableImageError, decode

_WINNER, _TIE, _INK, _QUIET = "#2e9e4f", "#b58900", "#1c1e21", "#7a7f87"
_PAGE, _CARD, _EDGE, _BLANK, _FAULT = "#eef0f3", "#ffffff", "#dcdfe4", "#f4f5f7", "#b3261e"

_MARGIN, _GAP, _PAD, _FRAME = 20, 14, 12, 4
_LINE, _PROMPT_LINES, _LABEL_HEIGHT, _TITLE_HEIGHT = 19, 2, 22, 22


def sample_through(groups: Iterable[Group], into: list[Group], count: int = 20, seed: int = 0) -> Iterator[Group]:
    """Pass `groups` on, leaving a uniform sample of `count` of them in `into`, in reading order.

    Reservoir sampling (Vitter 1985, algorithm R): only the sample is held.
    """
    draw = random.Random(seed)
    places: list[tuple[int, Group]] = []
    for number, group in enumerate(groups):
        if number < count:
            places.append((number, group))
        elif (slot := draw.randrange(number + 1)) < count:
            places[slot] = (number, group)
        yield group
    into[:] = [group for _, group in sorted(places, key=lambda place: place[0])]


def contact_sheet(groups: Sequence[Group], *, thumb: int = 176, most: int = 4, width: int = 1640) -> Image.Image:
    """Draw up to 20 or so groups as cards: prompt, then candidates from best to worst, labels below.

    The preferred candidate stands left in a green frame; in a tie, all have a yellow one. Of more than `most`
    candidates the first ones are shown and the rest counted. An unreadable picture is a grey square with its reason.
    """
    shown = max((min(group.size, most) for group in groups), default=1)
    card_width = 2 * _PAD + shown * thumb + (shown - 1) * _PAD
    card_height = 2 * _PAD + _TITLE_HEIGHT + _PROMPT_LINES * _LINE + 6 + thumb + _LABEL_HEIGHT
    columns = max(1, min((width - 2 * _MARGIN + _GAP) // (card_width + _GAP), len(groups) or 1))
    rows = -(-len(groups) // columns) or 1
    page = Image.new(
        "RGB",
        (
            2 * _MARGIN + columns * card_width + (columns - 1) * _GAP,
            2 * _MARGIN + rows * card_height + (rows - 1) * _GAP,
        ),
        _PAGE,
    )
    draw = ImageDraw.Draw(page)
    for number, group in enumerate(groups):
        x = _MARGIN + (number % columns) * (card_width + _GAP)
        y = _MARGIN + (number // columns) * (card_height + _GAP)
        draw.rounded_rectangle((x, y, x + card_width, y + card_height), 8, fill=_CARD, outline=_EDGE)
        _draw_group(page, draw, group, x + _PAD, y + _PAD, card_width - 2 * _PAD, thumb, shown)
    if not groups:
        draw.text((_MARGIN + _PAD, _MARGIN + _PAD), "no groups", fill=_QUIET, font=font_for("no groups", 15))
    return page


def save_contact_sheet(groups: Sequence[Group], path: str | Path) -> Path:
    """Draw the sheet to a PNG file, which appears under its name only when whole."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.with_name(f".{path.name}.tmp")
    try:
        contact_sheet(groups).save(hidden, format="PNG", optimize=True)
        os.replace(hidden, path)
    finally:
        hidden.unlink(missing_ok=True)
    return path


def _draw_group(
    page: Image.Image, draw: ImageDraw.ImageDraw, group: Group, x: int, y: int, width: int, thumb: int, shown: int
) -> None:
    ranked = group.sorted_by_label()
    more = f" · {group.size - shown} more" if group.size > shown else ""
    title = _clean(f"{group.key}{' · tie' if group.is_tie else ''}{more}")
    font = font_for(title, 12)
    draw.text((x, y), shorten(title, font, width), fill=_QUIET, font=font)
    y += _TITLE_HEIGHT
    prompt = _clean(group.prompt) or "(empty prompt)"
    font = font_for(prompt, 15)
    for number, line in enumerate(wrap(prompt, font, width, _PROMPT_LINES)):
        draw.text((x, y + number * _LINE), line, fill=_INK if group.prompt.strip() else _QUIET, font=font)
    y += _PROMPT_LINES * _LINE + 6
    best = max(ranked.labels)
    for index in range(min(group.size, shown)):
        left = x + index * (thumb + _PAD)
        _draw_candidate(page, draw, ranked.candidates[index], left, y, thumb)
        is_best = ranked.labels[index] == best and group.size > 1
        if is_best:
            draw.rectangle(
                (left, y, left + thumb - 1, y + thumb - 1), outline=_TIE if group.is_tie else _WINNER, width=_FRAME
            )
        label = f"{ranked.labels[index]:.4g}"
        font = font_for(label, 13)
        colour = _QUIET if not is_best else _TIE if group.is_tie else _WINNER
        draw.text((left + thumb // 2, y + thumb + 4), label, fill=colour, font=font, anchor="ma")


def _draw_candidate(page: Image.Image, draw: ImageDraw.ImageDraw, data: bytes, x: int, y: int, side: int) -> None:
    """The picture whole, centred in a square; small ones are enlarged without smoothing."""
    draw.rectangle((x, y, x + side - 1, y + side - 1), fill=_BLANK)
    inner = side - 2 * _FRAME
    try:
        picture = decode(data, at_least=inner, min_side=1)
    except UnreadableImageError as error:
        font = font_for(str(error), 13)
        for number, line in enumerate(wrap(f"unreadable: {error}", font, inner - 16, 4)):
            draw.text((x + side // 2, y + side // 3 + number * 17), line, fill=_FAULT, font=font, anchor="ma")
        return
    scale = min(inner / picture.width, inner / picture.height)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    method = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS
    picture = picture.resize(size, method)
    page.paste(picture, (x + (side - picture.width) // 2, y + (side - picture.height) // 2))


def _clean(text: str) -> str:
    """One line of characters that can be drawn: control characters and stray surrogates become spaces."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def wrap(text: str, font: Font, width: int, lines: int) -> list[str]:
    """At most `lines` lines that fit `width` pixels, broken at spaces or, in a script without them, anywhere.

    What cannot be drawn (control characters, line breaks) becomes a space; what does not fit becomes "…".
    """
    wrapped: list[str] = []
    rest = _clean(text)
    while rest and len(wrapped) < lines:
        if len(wrapped) == lines - 1:
            wrapped.append(shorten(rest, font, width))
            break
        cut = _fitting(rest, font, width)
        if cut < len(rest):
            space = rest.rfind(" ", 0, cut + 1)
            cut = space if space > cut // 2 else cut
        wrapped.append(rest[:cut].rstrip())
        rest = rest[cut:].lstrip()
    return wrapped


def shorten(text: str, font: Font, width: int) -> str:
    """The text, or as much of its beginning as fits `width` pixels with "…" after it."""
    cut = _fitting(text, font, width)
    return text if cut == len(text) else text[: _fitting(text, font, width - int(font.getlength("…")))].rstrip() + "…"


def _fitting(text: str, font: Font, width: int) -> int:
    """How many characters of `text` fit; at least one. Text of any length: no more than 400 are ever measured."""
    low, high = 1, min(len(text), 400)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if font.getlength(text[:middle]) <= width else (low, middle - 1)
    return low
