"""Decode a candidate's bytes to an RGB picture, or say in one phrase why that is impossible."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageOps

from .group import Group
from .png import stored

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
"""What is read, by Pillow's names; a camera's MPO is a JPEG. Pillow opens more, some of it (EPS) with another program,
and a file's name does not tell its format."""

_COMMON = (".png", ".jpg", ".jpeg", ".jfif", ".mpo", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff")
IMAGE_SUFFIXES = frozenset((*_COMMON, ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx"))
"""Of files of these formats, lower case: where a folder is looked through, its other files are no pictures."""

MIN_SIDE = 8
"""Pixels. The VAE of every supported family divides each side by 8, so a smaller picture has no latent."""

MAX_PIXELS = 89_478_485
"""Pillow's own limit against decompression bombs (a file of kilobytes that unpacks to gigabytes)."""

MAX_RATIO = 200
"""Of the sides. Resized to a shorter side of 1024 pixels, a picture of 1 x 60,000 would take 190 GB."""

_ORIENTATION = 0x0112
_SIXTEEN_BIT = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N"})


class UnreadableImageError(ValueError):
    """The bytes are no picture that can be trained on; the message is the reason, short enough for a table."""


def decode(data: bytes, at_least: int | None = None, min_side: int = MIN_SIDE) -> Image.Image:
    """The picture as 8-bit RGB, turned as its EXIF orientation says; the first frame of an animation.

    Transparent pixels are laid on white, as a browser shows them; 16-bit grey is scaled to 8 bits; CMYK is converted
    without its colour profile. `at_least` (pixels of the shorter side) lets a JPEG be decoded at 1/2, 1/4 or 1/8 of
    its size where both sides stay that long, which is several times faster; take the true size from `image_size`.

    Raises UnreadableImageError: empty, not an image, truncated, too small, too large.
    """
    image = _open(stored(data), min_side)
    try:
        if at_least is not None:
            image.draft(None, (at_least, at_least))
        image.load()
        return _to_rgb(upright(image))
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, struct.error, ... on damaged files
        raise UnreadableImageError(damage(error)) from error


def image_size(data: bytes) -> tuple[int, int]:
    """Width and height in pixels after EXIF orientation, read from the header only. Raises UnreadableImageError."""
    return _upright_size(_open(data, min_side=1))


def inspect(data: bytes, min_side: int = MIN_SIDE) -> tuple[int, int]:
    """Read the whole picture once, as cheaply as its format allows, and return its width and height.

    A JPEG is decoded at 1/8 of its size, which still reads every byte. Raises UnreadableImageError.
    """
    size = _upright_size(_open(data, min_side))
    decode(data, at_least=1, min_side=min_side)
    return size


def first_fault(group: Group, min_side: int = MIN_SIDE, places: Sequence[int] | None = None) -> str | None:
    """Why the group cannot be used, such as `candidate 1: truncated`, or None when all its pictures are sound.

    Only the candidates at `places` are looked at, if these are given.
    """
    for index in range(group.size) if places is None else places:
        try:
            inspect(group.candidates[index], min_side)
        except UnreadableImageError as error:
            return f"candidate {index}: {error}"
    return None


def open_picture(data: bytes) -> Image.Image:
    """What `FORMATS` make of a file's bytes, its header read only. Raises whatever Pillow's plugins raise."""
    return Image.open(io.BytesIO(data), formats=_known_formats())


@cache
def _known_formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow has: it raises KeyError for the name of another."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _open(data: bytes, min_side: int) -> Image.Image:
    if not data:
        raise UnreadableImageError("0 bytes")
    try:
        image = open_picture(data)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImageError(f"more than {MAX_PIXELS:,} pixels") from error
    except MemoryError:
        raise
    except Exception as error:
        raise UnreadableImageError(damage(error)) from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UnreadableImageError(f"{width} x {height}: more than {MAX_PIXELS:,} pixels")
    if min(width, height) < min_side:
        raise UnreadableImageError(f"too small: {width} x {height}, each side needs {min_side} pixels or more")
    if fault := ratio_fault(width, height):
        raise UnreadableImageError(fault)
    if image.mode == "F":
        raise UnreadableImageError("32-bit float pixels have no fixed range: save it with 8 bits a channel")
    return image


def ratio_fault(width: int, height: int) -> str | None:
    """What is wrong with a picture that is too thin to be resized by its shorter side; None where nothing is."""
    if max(width, height) <= MAX_RATIO * min(width, height):
        return None
    return f"{width} x {height} pixels: one side is more than {MAX_RATIO} times the other"


def _upright_size(image: Image.Image) -> tuple[int, int]:
    width, height = image.size
    return (height, width) if _orientation(image) >= 5 else (width, height)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a damaged EXIF block says nothing; the pixels may well be sound
        return 1


def upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF orientation says; itself where that says nothing."""
    return ImageOps.exif_transpose(image) if 2 <= _orientation(image) <= 8 else image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BIT:
        levels = np.asarray(image).astype(np.int64).clip(0, 65535)
        return Image.fromarray(((levels + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def damage(error: Exception) -> str:
    """What Pillow's error over a damaged file means, in one phrase."""
    text = str(error)
    if "truncated" in text.lower() or isinstance(error, EOFError):
        return "truncated"
    if "cannot identify" in text:
        return f"not an image of a format that is read: {', '.join(FORMATS)}"
    return f"damaged: {text or type(error).__name__}"
