"""PNG files unpacked ahead of Pillow, by a library that is quicker at it.

Pillow unpacks row by row, and most of its time with a PNG goes there. Nothing else is done here: filters, palettes, bit
depths, profiles and damage are Pillow's matter.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from isal import isal_zlib

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_BLOCK = 65535  # bytes: the most that a stored block holds
_MAX_CHUNKS = 2**14  # the usual ones are 8 to 64 kB long; five million empty ones would take a gigabyte
_MAX_BYTES = 2**26  # of rows, in memory twice for a moment: 22 million pixels of RGB; Pillow reads larger ones alone


def stored(data: bytes) -> bytes:
    """A PNG with the same rows, stored without compression, which Pillow decodes to the same picture.

    Bytes that are no PNG, an interlaced one, and whatever is damaged come back as they are, for Pillow to judge.
    """
    if not data.startswith(_SIGNATURE):
        return data
    view, start, end = memoryview(data), 0, len(_SIGNATURE)
    size, packed = 0, list[memoryview]()
    while end + 12 <= len(data):
        at = end
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            return data
        if kind == b"IHDR" and length == 13:
            size = _rows_size(*struct.unpack_from(">IIBBBBB", data, at + 8))
        elif len(packed) > _MAX_CHUNKS:
            return data
        elif kind == b"IDAT":
            start = start or at
            packed.append(view[at + 8 : end - 4])
        elif packed:  # the rows lie in one piece
            rows = _unpack(packed, size)
            return data if rows is None else b"".join((view[:start], *_chunk(rows), view[at:]))
    return data


def _rows_size(width: int, height: int, depth: int, colour: int, *methods: int) -> int:
    """Bytes of all rows, each with a byte that names its filter; 0 for what is not unpacked here."""
    if any(methods) or colour not in _CHANNELS:  # the last of the methods is interlacing
        return 0
    size = height * (1 + (width * depth * _CHANNELS[colour] + 7) // 8)
    return size if size <= _MAX_BYTES else 0


def _unpack(packed: Sequence[memoryview], size: int) -> bytes | None:
    """A zlib stream's content; None where it is not `size` bytes."""
    joined = b"".join(packed)
    if not size or not joined or joined[0] & 0x8F != 8:  # windows that zlib refuses, isal takes
        return None
    stream = isal_zlib.decompressobj()
    try:
        rows = stream.decompress(joined, size + 1)
    except isal_zlib.error:  # pyright: ignore[reportGeneralTypeIssues]: its stubs call the class an instance
        return None
    return rows if len(rows) == size and stream.eof else None


def _chunk(rows: bytes) -> list[bytes | memoryview]:
    """An IDAT chunk with a zlib stream of stored blocks."""
    view = memoryview(rows)
    body: list[bytes | memoryview] = [b"\x78\x01"]
    for start in range(0, len(rows), _BLOCK):
        length = min(_BLOCK, len(rows) - start)
        body += [
            struct.pack("<BHH", start + length == len(rows), length, length ^ 0xFFFF),
            view[start : start + length],
        ]
    body.append(struct.pack(">I", isal_zlib.adler32(rows)))
    check = isal_zlib.crc32(b"IDAT")
    for part in body:
        check = isal_zlib.crc32(part, check)
    return [struct.pack(">I4s", sum(map(len, body)), b"IDAT"), *body, struct.pack(">I", check)]
