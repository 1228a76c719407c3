"""torch's bicubic filter, and the same for 8-bit pictures in half the time.

The filter is linear and works on rows and columns in turn: an output row is a weighted sum of 18 of 1024 input rows.
That is what `embedding_bag` computes, whose kernel keeps the sum in registers; a product of sparse matrices writes it
to memory for each of the 18.
"""

from __future__ import annotations

import math
import threading
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

_SLAB = 56  # output rows
_COLUMNS = 256  # of the unit matrix at once: whole, that of a 10000 pixel side would take 400 MB
_KEPT = 2**25  # bytes: a picture of 2048 pixels a side needs 18 MB, larger ones are rare

_thread = threading.local()  # what `_room` keeps, by name


def bicubic(images: Tensor, height: int, width: int, antialias: bool) -> Tensor:
    """`[n, c, H, W]` to `[n, c, height, width]`; overshoots a little, and is not clamped."""
    if width == 1 < height:  # torch's antialiased filter is wrong where one column comes out, and right for one row
        return bicubic(images.mT, width, height, antialias).mT
    return F.interpolate(images, size=(height, width), mode="bicubic", align_corners=False, antialias=antialias)


def bicubic_levels(levels: Tensor, height: int, width: int, antialias: bool) -> Tensor:
    """`bicubic` of an 8-bit picture `[H, W, 4]`: float32 RGB `[3, height, width]`, equal to 1e-6 of 255 levels."""
    rows, columns, _ = levels.shape
    lines = levels.view(rows, columns * 4)
    across = _sums(columns, width, antialias)
    small = torch.empty(3, height, width, dtype=torch.float32)
    for top, bottom, first, last, down in _slabs(rows, height, antialias):
        floats = _room("floats", torch.float32, last - first, columns * 4).copy_(lines[first:last])
        # Four floats are as long as one complex128, and torch turns a matrix of these in a third of the time.
        narrow = down.of(floats).view(torch.complex128)
        turned = _room("turned", torch.complex128, columns, bottom - top).copy_(narrow.T)
        part = across.of(turned.view(torch.float32)).view(width, bottom - top, 4)
        small[:, top:bottom] = part.permute(2, 1, 0)[:3]
    return small


def _room(name: str, dtype: torch.dtype, *shape: int) -> Tensor:
    """Memory of this thread, good until it asks for this name again: getting new takes longer than filling it."""
    needed = math.prod(shape)
    room: Tensor | None = getattr(_thread, name, None)
    if room is None or room.numel() < needed:
        with torch.inference_mode(False):  # what is made within that mode can be filled in no other
            room = torch.empty(needed, dtype=dtype)
        if room.nbytes <= _KEPT:
            setattr(_thread, name, room)
    return room[:needed].view(shape)


class _Sums(NamedTuple):
    """A sparse matrix: output row i sums the input rows `places[starts[i] : starts[i + 1]]`, each times its weight."""

    places: Tensor
    starts: Tensor
    weights: Tensor

    def of(self, rows: Tensor) -> Tensor:
        """The product with a matrix of float32."""
        places, starts, weights = self
        return F.embedding_bag(places, rows, starts, mode="sum", per_sample_weights=weights, include_last_offset=True)

    def cut(self, top: int, bottom: int) -> tuple[int, int, _Sums]:
        """Output rows from `top` to `bottom`: the first and the last input row that they need, and their sums."""
        starts = self.starts[top : bottom + 1]
        span = slice(int(starts[0]), int(starts[-1]))
        places = self.places[span]
        first = int(places.min())
        return first, int(places.max()) + 1, _Sums(places - first, starts - starts[0], self.weights[span])


@lru_cache(maxsize=64)
def _slabs(length: int, size: int, antialias: bool) -> tuple[tuple[int, int, int, int, _Sums], ...]:
    """(output rows from, to, input rows from, to, sums), so that a slab's floats stay in the processor's cache."""
    sums = _sums(length, size, antialias)
    tops = range(0, size, _SLAB)
    return tuple((top, min(top + _SLAB, size), *sums.cut(top, min(top + _SLAB, size))) for top in tops)


@lru_cache(maxsize=64)
def _sums(length: int, size: int, antialias: bool) -> _Sums:
    """What torch makes of a unit matrix's columns, `[size, length]`."""
    parts = []
    for start in range(0, length, _COLUMNS):
        count = min(_COLUMNS, length - start)
        unit = torch.zeros(length, count)
        unit[start:].fill_diagonal_(1)
        parts.append(bicubic(unit[None, None], size, count, antialias)[0, 0].to_sparse())
    matrix = torch.cat(parts, dim=1).coalesce()
    rows, places = matrix.indices()
    starts = torch.searchsorted(rows.contiguous(), torch.arange(size + 1))
    return _Sums(places.contiguous(), starts, matrix.values())
