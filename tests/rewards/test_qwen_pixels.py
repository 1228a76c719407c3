"""Qwen2-VL's pictures against transformers' own image processor, and its sizes by hand."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

from palate.rewards.qwen_pixels import fit, fitted, patches

HPSV3 = 200_704  # 448 x 448


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (1024, 1024, (448, 448)),
        (512, 512, (448, 448)),
        (100, 100, (448, 448)),
        (448, 448, (448, 448)),
        # 832 x 1216: scale sqrt(832 * 1216 / 200704) = 2.2452; 832 / 2.2452 / 28 = 13.2 and 1216 / 2.2452 / 28 = 19.3
        (832, 1216, (364, 532)),
        # 300 x 200: scale sqrt(200704 / 60000) = 1.8290; 300 * 1.8290 / 28 = 19.6 and 200 * 1.8290 / 28 = 13.1, up
        (300, 200, (560, 392)),
        # 20 x 4000: scale sqrt(200704 / 80000) = 1.5839; 20 * 1.5839 / 28 = 1.1 and 4000 * 1.5839 / 28 = 226.3, up
        (20, 4000, (56, 6356)),
    ],
)
def test_sizes_by_hand(height, width, expected):
    assert fitted(height, width, HPSV3) == expected


def test_sizes_are_transformers():
    rng = np.random.default_rng(0)
    for height, width in rng.integers(14, 3000, (3000, 2)).tolist():
        expected = smart_resize(height, width, min_pixels=HPSV3, max_pixels=HPSV3)
        assert fitted(height, width, HPSV3) == expected, (height, width)


def test_too_long_a_picture_is_refused():
    with pytest.raises(ValueError, match="4001 x 20 pixels: one side is more than 200 times the other"):
        fitted(20, 4001, HPSV3)


@pytest.mark.parametrize("size", [(300, 200), (1216, 832), (448, 448), (30, 700)])
def test_patches_are_transformers(size):
    levels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    picture = Image.fromarray(levels)
    processor = Qwen2VLImageProcessorPil(size={"shortest_edge": HPSV3, "longest_edge": HPSV3})
    expected = processor(picture, return_tensors="pt")
    pixels = fit(picture, HPSV3)
    assert (pixels.dtype, [1, pixels.shape[1] // 14, pixels.shape[2] // 14]) == (
        torch.float32,
        expected["image_grid_thw"][0].tolist(),
    )
    torch.testing.assert_close(patches(pixels), expected["pixel_values"], atol=1e-6, rtol=0)


def test_patches_pass_gradients():
    pixels = torch.zeros(3, 28, 56, requires_grad=True)
    patches(pixels).sum().backward()
    assert (pixels.grad == 2).all()  # each pixel stands in both frames
