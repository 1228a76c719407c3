"""How many of what, as a person says it."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """`1 group`, `1,200 groups`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
