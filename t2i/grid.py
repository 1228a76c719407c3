"""Pictures side by side with their prompts beneath."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from ..datasets.contact_sheet import wrap
from ..datasets.fonts import font_for

_GAP = 12
_LINES = 2


def grid(pictures: Sequence[Image.Image], captions: Sequence[str], columns: int = 4, side: int = 192) -> Image.Image:
    """One sheet of all pictures, each scaled to `side` pixels, its caption in at most two lines beneath."""
    columns = min(columns, max(1, len(pictures)))
    cell = side + _GAP
    text = 15 * _LINES + 8
    lines = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * cell + _GAP, lines * (cell + text) + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x, y = _GAP + number % columns * cell, _GAP + number // columns * (cell + text)
        # Small pictures are enlarged in whole pixels: smoothing would hide what the model drew.
        method = Image.Resampling.NEAREST if picture.width < side else Image.Resampling.LANCZOS
        sheet.paste(picture.resize((side, side), method), (x, y))
        font = font_for(caption, 12)
        for line, part in enumerate(wrap(caption, font, side, _LINES)):
            draw.text((x, y + side + 4 + 15 * line), part, fill="#333", font=font)
    return sheet


def save_grid(file: Path, pictures: Sequence[Image.Image], captions: Sequence[str]) -> None:
    """Write `grid` as a PNG, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    grid(pictures, captions).save(part, format="PNG")
    part.replace(file)
