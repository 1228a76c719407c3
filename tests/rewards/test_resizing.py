import numpy as np
import pytest
import torch
from torchvision.transforms import functional as tv

from palate.rewards.resizing import bicubic_levels


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize(
    "shape",
    [
        (700, 300, 112, 48),
        (61, 90, 60, 224),
        (30, 20, 60, 40),
        (5, 3, 1, 7),
        (257, 513, 112, 224),  # one more than blocks of 256
        (769, 1025, 168, 224),
        (1, 9, 2, 20),
    ],
)
def test_it_is_torchvisions_filter(shape, antialias):
    rows, columns, height, width = shape
    levels = np.random.default_rng(0).integers(0, 256, (rows, columns, 4), dtype=np.uint8)
    pixels = tv.to_tensor(levels)
    wanted = tv.resize(pixels, [height, width], tv.InterpolationMode.BICUBIC, antialias=antialias)
    found = bicubic_levels(torch.from_numpy(levels), height, width, antialias) / 255
    assert found.shape == (4, height, width)
    assert wanted.std() > 0.03 or rows == 1
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_two_pixels_of_one_by_hand():
    """Halfway between two pixels, with Keys' a = -0.75 and edges repeated, both weigh the same."""
    levels = torch.tensor([[[10, 0, 4, 255], [30, 0, 7, 255]]], dtype=torch.uint8)
    assert bicubic_levels(levels, 1, 1, antialias=False).flatten().tolist() == pytest.approx(
        [20, 0, 5.5, 255], abs=1e-3
    )
