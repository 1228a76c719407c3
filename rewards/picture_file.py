"""A picture file's bytes to a decoded picture, once for all scorers."""

from __future__ import annotations

import io

from PIL import Image, ImageOps

from ..datasets.images import MAX_PIXELS

_ORIENTATION = 0x0112


def read_picture(data: bytes, upright: bool = True) -> Image.Image:
    """The decoded picture in the file's own mode, an animation's first frame.

    Transparency, palettes, 16 bits and CMYK are left to the scorers, whose official code disagrees about them.

    Args:
        upright: turn it as its EXIF says, as people see it. The scorers' official code does not; generated pictures
            have no EXIF.

    Raises:
        ValueError: the bytes are no picture, are cut off or damaged, or unpack to more than 89 million pixels.
    """
    if not data:
        raise ValueError("0 bytes")
    try:
        picture = Image.open(io.BytesIO(data))
        if picture.width * picture.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        picture.load()
        return _turned(picture) if upright else picture
    except MemoryError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(f"more than {MAX_PIXELS:,} pixels") from None
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, struct.error, ... on damaged files
        raise ValueError(_reason(error)) from error


def _turned(picture: Image.Image) -> Image.Image:
    try:
        orientation = picture.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block says nothing; the pixels may well be sound
        return picture
    return ImageOps.exif_transpose(picture) if orientation in range(2, 9) else picture


def _reason(error: Exception) -> str:
    text = str(error)
    if "truncated" in text.lower() or isinstance(error, EOFError):
        return "truncated"
    if "cannot identify" in text:
        return "not an image format that Pillow knows"
    return f"damaged: {text or type(error).__name__}"
