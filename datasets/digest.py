"""Keys of 128 bits for what depends on texts and bytes."""

from __future__ import annotations

import hashlib


def digest(*parts: str | bytes) -> str:
    """A key of 128 bits from texts and bytes; no two different lists of parts give the same input to the hash."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return state.hexdigest()
