"""Pictures to the input of CLIP-like networks: the middle square, or the whole picture between black bars.

The scorers' own code does not turn a picture as its EXIF says, and neither does this: a caller that wants it upright
turns it before. Pixels under transparency count with the colours that they hide, for the same reason.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ..datasets.images import ratio_fault
from .resizing import bicubic, bicubic_levels

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Of CLIP's training pictures in [0, 1], per channel; ImageReward (BLIP) uses them too."""

_MEAN, _STD = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))

T = TypeVar("T")
_thread = threading.local()  # `shared`, within `shared_resizing`: the picture's pixels, and what is known of them

_SIXTEEN_BIT = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N"})


def to_rgb(picture: Image.Image) -> Image.Image:
    """The picture as 8-bit RGB, decoded; itself where it is. 16-bit grey is scaled; Pillow would cut it off at 255.

    Raises:
        OSError, ValueError: the file is truncated or damaged, or its pixels are floats, which have no fixed range.
    """
    try:
        picture.load()
    except (OSError, MemoryError):
        raise
    except Exception as error:  # Pillow's plugins raise SyntaxError, struct.error, ... on damaged files
        raise ValueError(f"damaged picture: {error or type(error).__name__}") from error
    if picture.mode == "F":
        raise ValueError("32-bit float pixels have no fixed range: save it with 8 bits a channel")
    if picture.mode in _SIXTEEN_BIT:
        levels = np.asarray(picture).astype(np.int64).clip(0, 65535)
        return Image.fromarray(((levels + 128) // 257).astype(np.uint8)).convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def floor_half(excess: int) -> int:
    """Where transformers' image processor starts the middle: an odd pixel goes to the right or the bottom."""
    return excess // 2


def round_half(excess: int) -> int:
    """Where torchvision's CenterCrop starts the middle, in OpenAI's and open_clip's own transforms: halves to even.

    It is one pixel later than `floor_half` where the excess is 3 modulo 4, as for 1216 x 832 (327 - 224 = 103).
    """
    return round(excess / 2)


def centre_crop(picture: Image.Image, size: int = 224, offset: Callable[[int], int] = floor_half) -> Tensor:
    """Resize the shortest side to `size` (see `resize`), cut out the middle square, normalise.

    Args:
        picture: of any mode and size.
        size: of the square, pixels.
        offset: from the excess of a side over `size`, the first pixel that is kept.

    Returns:
        float32 `[3, size, size]`.

    Raises:
        OSError, ValueError: the picture cannot be decoded.
    """
    height, width = _shortest_side(picture.height, picture.width, size)
    top, left = offset(height - size), offset(width - size)

    def cut() -> Tensor:
        resized = resize(picture, width, height)
        return normalise_levels(resized[:, top : top + size, left : left + size])

    return _once(picture, (size, top, left), cut).clone()  # its caller may write to it


@contextlib.contextmanager
def shared_resizing(picture: Image.Image) -> Iterator[None]:
    """Within the block, in this thread, this picture becomes RGB once, is resized to one size once, and cut alike once.

    PickScore, CLIPScore and ImageReward cut middles out of the same small picture, of a square one the same. Its pixels
    must stay as they are; pictures that share its memory count as the same.
    """
    _thread.shared = picture.im, {}
    try:
        yield
    finally:
        del _thread.shared


def rgb_levels(picture: Image.Image) -> Tensor:
    """The picture's levels as RGB, uint8 `[H, W, 4]`, not to be written to; the fourth of each pixel means nothing.

    Pillow holds RGB so, and they are its own memory where it lies in one piece, which it does up to 16 MB.

    Raises:
        OSError, ValueError: the picture cannot be decoded.
    """

    def unpacked() -> Tensor:
        rgb = to_rgb(picture)
        try:
            levels = torch.from_dlpack(pa.array(rgb).values)
        except ValueError:  # in several pieces
            levels = torch.from_numpy(np.array(rgb.convert("RGBX")))
        return levels.view(rgb.height, rgb.width, 4)

    return _once(picture, (), unpacked)


def resize(picture: Image.Image, width: int, height: int) -> Tensor:
    """The picture as RGB in another size, by torch's bicubic filter for 8-bit levels: uint8 `[3, height, width]`.

    It is what transformers' image processors do since version 5, at a ninth of the time of Pillow's. Of the levels,
    1 in 100 at most differ from Pillow's, and by one. Not to be written to.

    Raises:
        OSError, ValueError: the picture cannot be decoded.
    """

    def filtered() -> Tensor:
        levels = rgb_levels(picture).permute(2, 0, 1)
        return bicubic(levels[None], height, width, antialias=True)[0, :3]

    return _once(picture, (width, height), filtered)


def _once(picture: Image.Image, key: tuple[int, ...], make: Callable[[], T]) -> T:
    shared: tuple[Any, dict[tuple[int, ...], Any]] | None = getattr(_thread, "shared", None)
    if shared is None or shared[0] is not picture.im:
        return make()
    if key not in shared[1]:
        shared[1][key] = make()
    return shared[1][key]


def centre_crop_tensor(images: Tensor, size: int = 224, offset: Callable[[int], int] = floor_half) -> Tensor:
    """`centre_crop` of float images `[n, 3, H, W]` in [0, 1], for gradients: `[n, 3, size, size]`.

    It differs by the rounding of two 8-bit passes, up to 1/100 before normalisation.
    """
    height, width = _shortest_side(images.shape[-2], images.shape[-1], size)
    top, left = offset(height - size), offset(width - size)
    resized = bicubic(images, height, width, antialias=True).clamp(0, 1)  # 8-bit pictures cannot overshoot either
    return normalise(resized[..., top : top + size, left : left + size])


def letterbox(picture: Image.Image, size: int = 224, antialias: bool = True) -> Tensor:
    """The whole picture between black bars, as HPSv2 sees it.

    The picture becomes floats before it is resized, so that torchvision, and not Pillow, sets the filter: the longest
    side to `size`, the other to the nearest whole pixel, black below and right where the bars differ, then normalised.
    Unlike the reference, a picture whose longest side is `size` already is padded too; there it crashes.

    Args:
        picture: of any mode and size.
        size: of the square, pixels.
        antialias: torchvision's default since 0.17; before, tensors were resized without, and HPSv2's published
            averages are older.

    Returns:
        float32 `[3, size, size]`.

    Raises:
        OSError, ValueError: the picture cannot be decoded, or is too thin.
    """
    if fault := ratio_fault(picture.width, picture.height):
        raise ValueError(fault)
    levels = rgb_levels(picture)
    height, width = _longest_side(levels.shape[0], levels.shape[1], size)
    # The levels are brought to [0, 1] after they are few; the filter is linear.
    return normalise_levels(_bars(bicubic_levels(levels, height, width, antialias), size))


def letterbox_tensor(images: Tensor, size: int = 224, antialias: bool = True) -> Tensor:
    """`letterbox` of float images `[n, 3, H, W]` in [0, 1], for gradients: `[n, 3, size, size]`."""
    height, width = _longest_side(images.shape[-2], images.shape[-1], size)
    # Bicubic overshoots [0, 1] a little; the reference does not clamp.
    return normalise(_bars(bicubic(images, height, width, antialias), size))


def _longest_side(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width when the longer becomes `size` and the other the nearest whole pixel."""
    scale = size / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _bars(images: Tensor, size: int) -> Tensor:
    """Black around `[..., h, w]` to make it `size` a side; the wider bar is below or right."""
    top, left = ((size - side) // 2 for side in images.shape[-2:])
    return F.pad(images, (left, size - images.shape[-1] - left, top, size - images.shape[-2] - top))


def normalise(images: Tensor) -> Tensor:
    """`[..., 3, h, w]` in [0, 1] to CLIP's scale."""
    return (images - _MEAN.to(images)) / _STD.to(images)


def normalise_levels(levels: Tensor) -> Tensor:
    """Levels `[3, h, w]` in [0, 255], of any type, to CLIP's scale: `normalise` in a third of its memory."""
    return (levels / 255).sub_(_MEAN).div_(_STD)


def _shortest_side(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width when the shorter becomes `size`; the longer is cut to whole pixels, as torchvision does.

    Raises:
        ValueError: one side is more than 200 times the other: what is thrown away would fill the memory.
    """
    if fault := ratio_fault(width, height):
        raise ValueError(fault)
    if height <= width:
        return size, int(size * width / height)
    return int(size * height / width), size
