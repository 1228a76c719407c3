"""Find a font on this machine that can draw a text, for labels in pictures."""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Plain sans faces first, then ones with wide coverage.
_PREFERRED = ("DejaVuSans.ttf", "NotoSans-Regular", "LiberationSans-Regular", "Arial.ttf", "arial.ttf", "Helvetica")
_WIDE = ("Arial Unicode", "NotoSansCJK", "msyh", "PingFang", "Hiragino Sans", "wqy", "unifont", "Noto", "Droid")
_NEVER_DRAWN = "\U0010fffd"  # a private code point: any font draws its "missing" box for it


def font_for(text: str, size: int) -> Font:
    """The first font that has a glyph for every character of `text`; else the one that has the most of them.

    Missing glyphs are drawn as empty boxes. Without any font file, Pillow's own is used. Never raises for a text.
    """
    best, best_covered = None, -1
    wanted = {character for character in text if character.isprintable() and not character.isspace()}
    for path in _font_files():
        font = _load(path, size)
        if font is None:
            continue
        covered = sum(_has_glyph(path, character) for character in wanted)
        if covered == len(wanted):
            return font
        if covered > best_covered:
            best, best_covered = font, covered
    return best or ImageFont.load_default(size)


@lru_cache(maxsize=1)
def _font_files() -> tuple[str, ...]:
    """Regular faces on this machine, the preferred ones first; at most 40, as each may be asked about coverage."""
    folders = [Path("/usr/share/fonts"), Path("/usr/local/share/fonts"), Path.home() / ".local/share/fonts"]
    if sys.platform == "darwin":
        folders = [Path("/System/Library/Fonts"), Path("/Library/Fonts"), Path.home() / "Library/Fonts"]
    elif os.name == "nt":
        folders = [Path(os.environ.get("WINDIR", "C:/Windows")) / "Fonts"]
    files = [file for folder in folders if folder.is_dir() for file in folder.rglob("*") if _is_regular_face(file)]

    def rank(file: Path) -> tuple[int, str]:
        names = (*_PREFERRED, *_WIDE)
        return next((place for place, name in enumerate(names) if file.name.startswith(name)), len(names)), file.name

    return tuple(str(file) for file in sorted(files, key=rank)[:40])


def _is_regular_face(file: Path) -> bool:
    styles = ("bold", "italic", "oblique", "mono", "condensed", "light", "thin", "serif", "math")
    return file.suffix.lower() in (".ttf", ".otf", ".ttc") and not any(style in file.stem.lower() for style in styles)


@lru_cache(maxsize=128)
def _load(path: str, size: int) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(path, size)
    except OSError:  # a font that this FreeType cannot read
        return None


@lru_cache(maxsize=20_000)
def _has_glyph(path: str, character: str) -> bool:
    """Whether the character is drawn otherwise than the font's box for what it lacks."""
    return _drawn(path, character) != _drawn(path, _NEVER_DRAWN)


@lru_cache(maxsize=1_000)
def _drawn(path: str, character: str) -> bytes:
    image = Image.new("L", (32, 32))
    font = _load(path, 16)
    try:
        ImageDraw.Draw(image).text((4, 4), character, fill=255, font=font)
    except (OSError, ValueError):  # FreeType refuses a broken glyph; ValueError covers what has no UTF-8 form
        return b""
    return image.tobytes()
