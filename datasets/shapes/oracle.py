"""The oracle: reads a picture of the shapes world back and says how well it fulfils a prompt.

It knows the renderer, so it is exact on rendered pictures; it fits opacities rather than thresholds, so blur and
noise of generated pictures disturb it little (`examples/oracle_error.py` measures how little).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from .prompts import Prompt, Wanted, holds, parse
from .world import BACKGROUND, COLOURS, SHAPES, SIZE, coverage

_FOREGROUND = 0.40  # opacity above which a pixel belongs to a shape
_MIN_AREA = 10.0  # pixels; smaller blobs are specks, not shapes
_MIN_OVERLAP = 0.62  # soft intersection over union below which a blob has no known shape
_MAX_COLOUR_DISTANCE = 75.0  # RGB distance beyond which a blob has no known colour
_NAMES = list(COLOURS)
_PALETTE = np.asarray(list(COLOURS.values()), dtype=np.float32)


@dataclass(frozen=True)
class Seen:
    """One blob of a picture. `shape` or `colour` is None where it resembles none of the world's.

    `x`, `y`: the centre, in pixels, as in `world.Shape`. `overlap`: soft intersection over union with the best shape.
    """

    shape: str | None
    colour: str | None
    x: float
    y: float
    overlap: float


@dataclass(frozen=True)
class Verdict:
    """`correct`: the picture fulfils the prompt. `score`: the fraction of its demands that hold, in [0, 1]."""

    correct: bool
    score: float
    category: str


def read(picture: Image.Image) -> list[Seen]:
    """The shapes in a picture, largest first. A picture of another size is first resized to the world's."""
    rgb = picture.convert("RGB")
    if rgb.size != (SIZE, SIZE):
        rgb = rgb.resize((SIZE, SIZE), Image.Resampling.BOX)
    pixels = np.asarray(rgb, dtype=np.float32)
    contrast = pixels - np.asarray(BACKGROUND, dtype=np.float32)
    distance = np.linalg.norm(contrast, axis=-1)
    # Every colour of the world is at least 190 away from the background: half of that separates shape from ground.
    labels, count = ndimage.label(ndimage.gaussian_filter(distance, 0.4) > 80)  # type: ignore[misc]
    seen = [blob for i in range(1, count + 1) if (blob := _read_blob(pixels, distance, labels == i)) is not None]
    return [blob for _, blob in sorted(seen, key=lambda pair: -pair[0])]


def _read_blob(pixels: np.ndarray, distance: np.ndarray, mask: np.ndarray) -> tuple[float, Seen] | None:
    near = ndimage.binary_dilation(mask, iterations=1)
    core = mask & (distance >= np.quantile(distance[mask], 0.5))
    colour = pixels[core].mean(axis=0)
    ground = np.asarray(BACKGROUND, dtype=np.float32)
    axis = colour - ground
    opacity = np.clip(((pixels - ground) @ axis) / (axis @ axis), 0, 1) * near
    opacity[opacity < 0.1] = 0  # noise of the ground around the blob
    area = float(opacity.sum())
    if area < _MIN_AREA or opacity.max() < _FOREGROUND:
        return None
    distances = np.linalg.norm(_PALETTE - colour, axis=-1)
    nearest = int(distances.argmin())
    name = _NAMES[nearest] if distances[nearest] <= _MAX_COLOUR_DISTANCE else None
    shape, overlap, x, y = _fit_shape(opacity, area)
    return area, Seen(shape if overlap >= _MIN_OVERLAP else None, name, x, y, overlap)


# Area of each shape of radius 1, and how far its centroid lies below its centre, in radii.
_UNIT_AREA = {"circle": np.pi, "square": 3.24, "triangle": 1.9425, "cross": 20 / 9}
_CENTROID_Y = {"circle": 0.0, "square": 0.0, "triangle": 0.7 / 3, "cross": 0.0}
# A blurred square is nearer to a sharp circle than to a sharp square, so each shape is tried sharp and blurred.
_BLUR = ndimage.gaussian_filter1d(np.eye(SIZE, dtype=np.float32), 0.8, axis=0)  # as a matrix on rows or columns


def _fit_shape(opacity: np.ndarray, area: float) -> tuple[str, float, float, float]:
    """The shape of the blob's area and centroid that overlaps it most: `(shape, overlap, x, y)`."""
    rows, columns = np.indices(opacity.shape)
    x = float((columns * opacity).sum() / area) + 0.5
    centroid_y = float((rows * opacity).sum() / area) + 0.5
    fits = []
    for shape in SHAPES:
        radius = (area / _UNIT_AREA[shape]) ** 0.5
        y = centroid_y - _CENTROID_Y[shape] * radius
        sharp = coverage(shape, x, y, radius)
        blurred = _BLUR @ sharp @ _BLUR.T
        fits.append((shape, max(_overlap(sharp, opacity), _overlap(blurred, opacity)), x, y))
    return max(fits, key=lambda fit: fit[1])


def _overlap(ideal: np.ndarray, opacity: np.ndarray) -> float:
    """Soft intersection over union of two opacities `[SIZE, SIZE]`."""
    return float(np.minimum(ideal, opacity).sum() / np.maximum(ideal, opacity).sum())


def judge(prompt: Prompt | str, picture: Image.Image) -> Verdict:
    """Hold a picture against a prompt by GenEval's rules, made strict: what is not asked for must not be there.

    The demands are: each wanted shape (with its colour, if one is named) is present, no further blob is, and the
    relation holds. `score` is the fraction of demands fulfilled.

    Raises:
        ValueError: the prompt is not a sentence of the shapes world.
    """
    prompt = parse(prompt) if isinstance(prompt, str) else prompt
    seen = read(picture)
    demands: list[bool] = []
    found: list[Seen | None] = []
    left = list(seen)
    for wanted in (w for w in prompt.wanted for _ in range(w.count)):
        match = next((s for s in left if _matches(s, wanted)), None)
        found.append(match)
        demands.append(match is not None)
        if match is not None:
            left.remove(match)
    demands.append(not left)
    if prompt.relation is not None:
        first, second = found
        demands.append(first is not None and second is not None and _stand(prompt.relation, first, second))
    return Verdict(all(demands), sum(demands) / len(demands), prompt.category)


def _stand(relation: str, first: Seen, second: Seen) -> bool:
    return holds(relation, (first.x, first.y), (second.x, second.y))


def _matches(seen: Seen, wanted: Wanted) -> bool:
    return seen.shape == wanted.shape and (
        seen.colour is not None if wanted.colour is None else seen.colour == wanted.colour
    )
