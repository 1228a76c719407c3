"""Scenes of coloured shapes and the renderer that draws them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

SIZE = 32  # pixels a side
BACKGROUND = (245, 245, 245)
COLOURS = {
    "red": (214, 40, 40),
    "green": (40, 160, 60),
    "blue": (45, 85, 215),
    "yellow": (238, 200, 30),
    "purple": (150, 50, 175),
    "black": (25, 25, 25),
}
SHAPES = ("circle", "square", "triangle", "cross")
GAP = 2.0  # pixels of background that are kept between two shapes and at the border
_OVERSAMPLING = 4  # antialiasing: sample points a side in each pixel
_PLACEMENT_TRIES = 400


@dataclass(frozen=True)
class Shape:
    """One shape: its centre and its half extent in pixels of a `SIZE` x `SIZE` picture."""

    shape: str
    colour: str
    x: float
    y: float
    radius: float


def contains(shape: str, dx: np.ndarray, dy: np.ndarray, radius: float) -> np.ndarray:
    """Whether points at offsets `(dx, dy)` from a shape's centre lie inside it, bool of their broadcast shape.

    Raises:
        ValueError: the world has no such shape.
    """
    r = radius
    if shape == "circle":
        return dx**2 + dy**2 <= r**2
    if shape == "square":  # about the circle's area, so that size gives no hint of shape
        return np.maximum(abs(dx), abs(dy)) <= 0.9 * r
    if shape == "triangle":  # apex at -r, base from -1.05 r to 1.05 r at 0.85 r
        return (dy <= 0.85 * r) & (abs(dx) <= 1.05 * (dy + r) / 1.85)
    if shape == "cross":
        return (np.maximum(abs(dx), abs(dy)) <= r) & (np.minimum(abs(dx), abs(dy)) <= r / 3)
    raise ValueError(f"unknown shape {shape!r}; the world has {', '.join(SHAPES)}")


def coverage(shape: str, x: float, y: float, radius: float, size: int = SIZE) -> np.ndarray:
    """How much of each pixel a shape covers, float32 `[size, size]` in [0, 1]: the share of its 4 x 4 sample points.

    Computed rather than drawn by PIL, whose polygons come out half a sample off centre and a sample too wide.
    """
    n = _OVERSAMPLING
    points = (np.arange(size * n, dtype=np.float32) + 0.5) / n
    inside = contains(shape, points[None, :] - x, points[:, None] - y, radius).view(np.uint8)
    rows = np.add.reduce([inside[i::n] for i in range(n)], dtype=np.uint8)  # faster than a mean over two axes
    return np.add.reduce([rows[:, i::n] for i in range(n)], dtype=np.uint8).astype(np.float32) / n**2


def render(scene: list[Shape], size: int = SIZE) -> Image.Image:
    """Draw a scene on the plain background, later shapes over earlier ones."""
    picture = np.empty((size, size, 3), dtype=np.float32)
    picture[:] = BACKGROUND
    for item in scene:
        scale = size / SIZE
        covered = coverage(item.shape, item.x * scale, item.y * scale, item.radius * scale, size)[..., None]
        picture = (1 - covered) * picture + covered * np.asarray(COLOURS[item.colour], dtype=np.float32)
    return Image.fromarray(picture.round().astype(np.uint8))


def place(count: int, rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """Draw `count` disjoint places `(x, y, radius)`, each with `GAP` pixels of background around it.

    A layout that gets stuck is thrown away and drawn again, so every count of at most four ends.
    """
    low, high = {1: (4.5, 7.0), 2: (4.5, 6.0)}.get(count, (4.0, 4.8))
    while True:
        places: list[tuple[float, float, float]] = []
        for _ in range(_PLACEMENT_TRIES):
            radius = rng.uniform(low, high)
            margin = 1.05 * radius + GAP
            x, y = rng.uniform(margin, SIZE - margin, size=2)
            if all(max(abs(x - ox), abs(y - oy)) > 1.05 * (radius + other) + GAP for ox, oy, other in places):
                places.append((float(x), float(y), float(radius)))
                if len(places) == count:
                    return places
