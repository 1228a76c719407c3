"""How much is encoded at once: `prepare` encodes by it, `estimate` counts by it."""

from __future__ import annotations

PROMPTS_AT_ONCE = 32
_MOST_PICTURES = 32
_PIXELS = 2 * 1024**2  # two pictures of 1024 pixels: SDXL's float32 autoencoder takes about 2.5 GiB for each


def pictures_at_once(resolution: int) -> int:
    """Pictures of `resolution` pixels a side that go through the autoencoder together."""
    return max(1, min(_MOST_PICTURES, _PIXELS // resolution**2))
