"""Which prompts are kept for validation."""

from __future__ import annotations

import hashlib


def is_held_out(prompt: str, share: float) -> bool:
    """Whether a prompt is among the `share` of all prompts that validates: its hash decides, so it never moves."""
    number = int.from_bytes(hashlib.blake2b(prompt.encode(), digest_size=4).digest(), "big")
    return number < share * 2**32
