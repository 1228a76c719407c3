import io

import numpy as np
import pytest
import torch
from PIL import Image

from palate.t2i.framing import View, draw_view, frame


def gradient(width: int, height: int) -> bytes:
    """Red grows to the right, green to the bottom."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    buffer = io.BytesIO()
    pixels = np.stack([x * 255 // width, y * 255 // height, x * 0], -1).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_shorter_side_is_resized_and_the_crop_is_reported():
    pixels, framing = frame(gradient(64, 32), 16, View(0.5, 1.0))
    assert pixels.shape == (3, 16, 16)
    assert framing.original == (32, 64)
    assert framing.corner == (0, 16)
    assert framing.target == (16, 16)
    assert pixels[0, 0, 0] > 0 > pixels[0, 0, 0] - 1.2  # the right half is the redder one


def test_mirrored_picture_reports_the_corner_in_the_mirrored_picture():
    plain, _ = frame(gradient(64, 32), 16, View(0.5, 0.25))
    mirrored, framing = frame(gradient(64, 32), 16, View(0.5, 0.25, mirrored=True))
    assert torch.equal(mirrored, plain.flip(-1))
    assert framing.corner == (0, 12)  # 32 wide after the resize, cut at 4: 32 - 16 - 4


def test_pixels_span_minus_one_to_one():
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (255, 0, 0)).save(buffer, "PNG")
    pixels, _ = frame(buffer.getvalue(), 16, View())
    assert pixels[0].min() == 1
    assert pixels[1].max() == -1


def test_a_view_depends_on_seed_group_and_variant_alone():
    views = [
        draw_view(seed, group, variant, "random", True) for seed in (0, 1) for group in (0, 1) for variant in (0, 1)
    ]
    assert len(set(views)) == 8
    assert views[0] == draw_view(0, 0, 0, "random", True)


@pytest.mark.parametrize("flip", [True, False])
def test_mirrors_half_of_the_variants_only_where_asked(flip):
    share = np.mean([draw_view(0, group, 0, "center", flip).mirrored for group in range(400)])
    assert share == pytest.approx(0.5 if flip else 0, abs=0.07)
