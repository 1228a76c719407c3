"""A picture file's bytes to a decoded picture, once for all scorers."""

from __future__ import annotations

from PIL import Image

from ...datasets import images
from ...datasets.png import stored


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
        picture = images.open_picture(stored(data))
        if picture.width * picture.height > images.MAX_PIXELS:
            raise Image.DecompressionBombError
        picture.load()
        return images.upright(picture) if upright else picture
    except MemoryError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(f"more than {images.MAX_PIXELS:,} pixels") from None
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, struct.error, ... on damaged files
        raise ValueError(images.damage(error)) from error
