from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.datasets.shapes.world import (
    BACKGROUND,
    COLOURS,
    GAP,
    SHAPES,
    SIZE,
    Shape,
    contains,
    coverage,
    place,
    render,
)

UNIT_AREA = {"circle": np.pi, "square": 3.24, "triangle": 1.9425, "cross": 20 / 9}
CENTROID_BELOW_CENTRE = {"circle": 0.0, "square": 0.0, "triangle": 0.7 / 3, "cross": 0.0}
kinds = st.sampled_from(SHAPES)
seeds = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("shape", SHAPES)
def test_area_and_centre_are_the_shape_s(shape):
    rng = np.random.default_rng(0)
    rows, columns = np.indices((SIZE, SIZE)) + 0.5
    areas, offsets = [], []
    for _ in range(200):
        x, y, radius = rng.uniform(12, 20), rng.uniform(12, 20), rng.uniform(4, 7)
        covered = coverage(shape, x, y, radius)
        area = covered.sum()
        areas.append(area / radius**2)
        offsets.append(((columns * covered).sum() / area - x, (rows * covered).sum() / area - y))
        offsets[-1] = (offsets[-1][0], offsets[-1][1] - CENTROID_BELOW_CENTRE[shape] * radius)
    assert np.mean(areas) == pytest.approx(UNIT_AREA[shape], rel=0.01)
    assert np.mean(offsets, axis=0) == pytest.approx([0, 0], abs=0.02)  # no drift: half a sample would be 0.125
    assert np.abs(offsets).max() < 0.15


def test_coverage_by_hand():
    # Radius 5: the square reaches from 11.5 to 20.5, so it covers half of columns 11 and 20.
    covered = coverage("square", 16, 16, 5)
    assert covered.dtype == np.float32
    assert covered[16, [10, 11, 12, 19, 20, 21]].tolist() == [0, 0.5, 1, 1, 0.5, 0]
    assert covered[11, 11] == 0.25
    assert covered.sum() == 81


def test_triangle_points_up_and_cross_has_arms():
    assert contains("triangle", np.array([0, 0, 4.9]), np.array([-4.9, 4.3, -4.0]), 5.0).tolist() == [
        True,
        False,
        False,
    ]
    assert contains("cross", np.array([0, 4.9, 4.0]), np.array([4.9, 0, 4.0]), 5.0).tolist() == [True, True, False]


def test_unknown_shape():
    with pytest.raises(ValueError, match="unknown shape 'star'; the world has circle, square"):
        coverage("star", 16, 16, 5)


def test_render_paints_colour_on_background_and_later_over_earlier():
    pixels = np.asarray(render([Shape("square", "red", 12, 12, 5), Shape("circle", "blue", 14, 12, 3)]))
    assert pixels.shape == (SIZE, SIZE, 3)
    assert tuple(pixels[9, 9]) == COLOURS["red"]
    assert tuple(pixels[12, 14]) == COLOURS["blue"]
    assert tuple(pixels[30, 30]) == BACKGROUND


def test_render_at_another_size_keeps_the_scene():
    scene = [Shape("triangle", "green", 10, 20, 6)]
    large = np.asarray(render(scene, 64), dtype=float)
    difference = np.abs(large.reshape(32, 2, 32, 2, 3).mean((1, 3)) - np.asarray(render(scene), dtype=float))
    assert difference.mean() < 0.5
    assert difference.max() < 40  # a pixel on the edge


@given(st.integers(1, 4), seeds)
def test_places_keep_their_distance_and_stay_inside(count, seed):
    places = place(count, np.random.default_rng(seed))
    assert len(places) == count
    for x, y, radius in places:
        assert 1.05 * radius + GAP <= min(x, y, SIZE - x, SIZE - y)
    for (x, y, radius), (other_x, other_y, other) in combinations(places, 2):
        assert max(abs(x - other_x), abs(y - other_y)) > 1.05 * (radius + other) + GAP


def test_same_seed_same_places():
    assert place(4, np.random.default_rng(3)) == place(4, np.random.default_rng(3))
    assert place(4, np.random.default_rng(3)) != place(4, np.random.default_rng(4))


def test_every_colour_is_far_from_the_ground_and_from_the_others():
    colours = [*COLOURS.values(), BACKGROUND]
    distances = [np.linalg.norm(np.subtract(a, b)) for a, b in combinations(colours, 2)]
    assert min(distances) > 110
    assert min(np.linalg.norm(np.subtract(c, BACKGROUND)) for c in COLOURS.values()) > 190
