import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torchvision.transforms import functional as tv

from palate.rewards import resizing
from palate.rewards.resizing import bicubic, bicubic_levels


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
    assert found.shape == (3, height, width)
    assert wanted.std() > 0.03 or rows == 1
    torch.testing.assert_close(found, wanted[:3], rtol=0, atol=1e-6)


def test_a_result_stays_when_its_thread_resizes_another_picture():
    """The memory between the passes is used again, by calls within inference mode and by others."""
    first, second = torch.randint(0, 256, (2, 90, 60, 4), dtype=torch.uint8, generator=torch.manual_seed(0))

    def in_turn() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        with torch.inference_mode():
            found = bicubic_levels(first, 30, 20, antialias=True)
            before = found.clone()
        bicubic_levels(second, 30, 20, antialias=True)
        bicubic_levels(second, 60, 90, antialias=True)
        return found, before, bicubic_levels(first, 30, 20, antialias=True)

    with ThreadPoolExecutor(1) as fresh:  # whose memory is made within inference mode
        found, before, again = fresh.submit(in_turn).result()
    assert torch.equal(found, before)
    assert torch.equal(found, again)


def test_threads_do_not_share_memory():
    pictures = torch.randint(0, 256, (8, 600, 500, 4), dtype=torch.uint8, generator=torch.manual_seed(0))
    alone = [bicubic_levels(picture, 112, 96, antialias=True) for picture in pictures]
    with ThreadPoolExecutor(4) as threads:
        for _ in range(3):
            together = list(threads.map(lambda picture: bicubic_levels(picture, 112, 96, antialias=True), pictures))
            assert all(map(torch.equal, together, alone))


def test_the_memory_of_a_large_picture_is_let_go(monkeypatch):
    monkeypatch.setattr(resizing, "_KEPT", 1000)
    monkeypatch.setattr(resizing, "_thread", threading.local())
    bicubic_levels(torch.zeros(90, 60, 4, dtype=torch.uint8), 30, 20, antialias=True)
    assert not vars(resizing._thread)
    monkeypatch.setattr(resizing, "_KEPT", 10**6)
    bicubic_levels(torch.zeros(90, 60, 4, dtype=torch.uint8), 30, 20, antialias=True)
    assert set(vars(resizing._thread)) == {"floats", "turned"}


def test_two_pixels_of_one_by_hand():
    """Halfway between two pixels, with Keys' a = -0.75 and edges repeated, both weigh the same."""
    levels = torch.tensor([[[10, 0, 4, 255], [30, 0, 7, 255]]], dtype=torch.uint8)
    assert bicubic_levels(levels, 1, 1, antialias=False).flatten().tolist() == pytest.approx([20, 0, 5.5], abs=1e-3)


@pytest.mark.parametrize("shape", [(1400, 8, 224, 1), (160, 1, 224, 1), (8, 1400, 1, 224), (9, 8, 1, 1), (40, 7, 5, 1)])
def test_one_column_is_filtered_as_one_row_is(shape):
    """torch's own antialiased filter of one column is wrong, by up to 200 levels here; float32 by 0.002."""
    rows, columns, height, width = shape
    levels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (rows, columns), dtype=np.uint8))
    along = [antialiased(*pair) for pair in ((rows, height), (columns, width))]
    wanted = along[0] @ levels.double() @ along[1].T
    found = bicubic(levels[None, None].float(), height, width, antialias=True)
    assert found.shape == (1, 1, height, width)
    torch.testing.assert_close(found[0, 0].double(), wanted, rtol=0, atol=5e-3)
    wide = levels[..., None].repeat(1, 1, 4)
    torch.testing.assert_close(bicubic_levels(wide, height, width, True)[0].double(), wanted, rtol=0, atol=5e-3)
    image = levels[None, None].double().requires_grad_()
    bicubic(image, height, width, antialias=True).sum().backward()
    gradient = along[0].sum(dim=0)[:, None] * along[1].sum(dim=0)
    torch.testing.assert_close(image.grad[0, 0], gradient, rtol=0, atol=1e-9)


def antialiased(length: int, size: int) -> torch.Tensor:
    """The weights `[size, length]`: Keys' cubic with a = -0.5, as wide as the scale, normalised within the picture."""
    scale = length / size
    centres = (torch.arange(size, dtype=torch.float64) + 0.5) * scale
    places = torch.arange(length, dtype=torch.float64) + 0.5
    x = ((places - centres[:, None]) / max(scale, 1.0)).abs()
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weights = torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))
    return weights / weights.sum(dim=1, keepdim=True)
