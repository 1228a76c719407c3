"""torch's bicubic filter, and the same for 8-bit pictures in half the time.

The filter is linear and works on rows and columns in turn, so that it is two products with a matrix. An output row sees
few input rows; in bands of a few output rows the matrix is nearly full, and a band's input fits the processor's cache.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

_BAND = 8  # output rows; 4 to 16 are equally fast
_COLUMNS = 256  # of the unit matrix at once: whole, that of a 10000 pixel side would take 400 MB


def bicubic(images: Tensor, height: int, width: int, antialias: bool) -> Tensor:
    """`[n, c, H, W]` to `[n, c, height, width]`; overshoots a little, and is not clamped."""
    return F.interpolate(images, size=(height, width), mode="bicubic", align_corners=False, antialias=antialias)


def bicubic_levels(levels: np.ndarray, height: int, width: int, antialias: bool) -> Tensor:
    """`bicubic` of an 8-bit picture `[H, W, c]`: float32 `[c, height, width]`, equal to 1e-6 of 255 levels."""
    rows, columns, channels = levels.shape
    narrow = _filter(torch.from_numpy(levels).reshape(rows, columns * channels), height, antialias)
    turned = narrow.view(height, columns, channels).transpose(0, 1).reshape(columns, height * channels)
    return _filter(turned, width, antialias).view(width, height, channels).permute(2, 1, 0).contiguous()


def _filter(lines: Tensor, size: int, antialias: bool) -> Tensor:
    """`[length, m]` to float32 `[size, m]`."""
    parts = [weights @ lines[start:stop].float() for start, stop, weights in _bands(len(lines), size, antialias)]
    return torch.cat(parts)


@lru_cache(maxsize=64)
def _bands(length: int, size: int, antialias: bool) -> tuple[tuple[int, int, Tensor], ...]:
    """For each band of output rows: the first input row, the one behind the last, and the weights `[band, rows]`.

    The weights are what torch makes of a unit matrix's columns.
    """
    parts = []
    for start in range(0, length, _COLUMNS):
        unit = torch.zeros(length, min(_COLUMNS, length - start))
        unit[start:].fill_diagonal_(1)
        parts.append(bicubic(unit[None, None], size, unit.shape[1], antialias)[0, 0])
    matrix = torch.cat(parts, dim=1)
    bands = []
    for weights in matrix.split(_BAND):
        seen = weights.any(dim=0).nonzero()[:, 0]
        start, stop = int(seen[0]), int(seen[-1]) + 1
        bands.append((start, stop, weights[:, start:stop].contiguous()))
    return tuple(bands)
