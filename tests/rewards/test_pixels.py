import io

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as tv
from transformers import CLIPImageProcessor

from palate.rewards.pixels import (
    centre_crop,
    centre_crop_tensor,
    floor_half,
    letterbox,
    letterbox_tensor,
    resize,
    rgb_levels,
    round_half,
    shared_resizing,
    to_rgb,
)

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
BLACK = (0 - MEAN) / STD


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def smooth(width: int, height: int) -> Image.Image:
    return noise(9, 7).resize((width, height), Image.Resampling.BICUBIC)


def hpsv2(picture: Image.Image, antialias: bool) -> torch.Tensor:
    """The reference's transform in torchvision's functions, for pictures whose longest side is not 224."""
    pixels = tv.to_tensor(picture)
    scale = 224 / float(max(pixels.shape[1:]))
    height, width = (round(side * scale) for side in pixels.shape[1:])
    pixels = tv.resize(pixels, [height, width], tv.InterpolationMode.BICUBIC, antialias=antialias)
    left, top = (224 - width) // 2, (224 - height) // 2
    pixels = tv.pad(pixels, [left, top, 224 - width - left, 224 - height - top], fill=0)
    return tv.normalize(pixels, MEAN.flatten().tolist(), STD.flatten().tolist())


def openai(picture: Image.Image) -> torch.Tensor:
    """OpenAI's transform, levels 0 to 255: torchvision's functions of a Pillow picture."""
    return tv.pil_to_tensor(tv.center_crop(tv.resize(picture, [224], tv.InterpolationMode.BICUBIC), [224])).float()


SIZES = [(64, 64), (224, 224), (300, 500), (1216, 832), (333, 224), (57, 911)]


@pytest.mark.parametrize("size", SIZES)
def test_the_middle_square_is_that_of_the_clip_processor(size):
    picture = noise(*size)
    wanted = CLIPImageProcessor()(picture, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(centre_crop(picture), wanted, rtol=0, atol=2e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("make", [noise, smooth])
def test_with_round_half_the_middle_square_is_that_of_openai_but_for_a_level_here_and_there(size, make):
    """Pillow and torch sum the same filter with other roundings; a middle that is a pixel off differs everywhere."""
    picture = make(*size)
    levels = (centre_crop(picture, 224, round_half) * STD + MEAN) * 255
    off = (levels - openai(picture)).abs()
    assert off.max() < 2.01
    assert (off > 0.5).float().mean() < 0.02  # rounding once where Pillow does twice would make 0.16


def test_the_two_middles_differ_by_a_pixel_where_the_excess_is_3_modulo_4():
    assert [floor_half(excess) for excess in (0, 1, 2, 3, 103)] == [0, 0, 1, 1, 51]
    assert [round_half(excess) for excess in (0, 1, 2, 3, 103)] == [0, 0, 1, 2, 52]


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("size", [(64, 64), (300, 500), (1216, 832), (223, 100), (1001, 335)])
def test_the_letterbox_is_that_of_hpsv2(size, antialias):
    picture = noise(*size)
    wanted = hpsv2(picture, antialias)
    torch.testing.assert_close(letterbox(picture, antialias=antialias), wanted, rtol=0, atol=2e-6)


def test_a_wide_picture_lies_between_black_bars():
    pixels = letterbox(Image.new("RGB", (1024, 512), "white"))
    assert pixels.shape == (3, 224, 224)
    bars = torch.cat([pixels[:, :56], pixels[:, 168:]], dim=1)
    torch.testing.assert_close(bars, BLACK.expand_as(bars), rtol=0, atol=1e-6)
    white = ((1 - MEAN) / STD).expand(3, 112, 224)
    torch.testing.assert_close(pixels[:, 56:168], white, rtol=0, atol=1e-5)


def test_a_picture_of_the_right_length_is_padded_too():
    picture = noise(112, 224)
    pixels = letterbox(picture)
    assert torch.equal(pixels[:, :, :56], BLACK.expand(3, 224, 56))
    assert torch.equal(pixels[:, :, 168:], BLACK.expand(3, 224, 56))
    torch.testing.assert_close(pixels[:, :, 56:168], (tv.to_tensor(picture) - MEAN) / STD, rtol=0, atol=1e-6)


def test_the_odd_pixel_of_the_bars_goes_below():
    pixels = letterbox(Image.new("RGB", (224, 111), "white"))
    dark = (pixels[0, :, 0] < 0).tolist()
    assert dark == [True] * 56 + [False] * 111 + [True] * 57


def test_a_sliver_keeps_one_row():
    assert letterbox(Image.new("RGB", (200, 1), "white")).shape == (3, 224, 224)
    with pytest.raises(ValueError, match="2000 x 1 pixels: one side is more than 200 times the other"):
        letterbox(Image.new("RGB", (2000, 1), "white"))  # the filter's weights alone would take gigabytes at a million


def test_the_letterbox_of_tensors_is_that_of_pictures():
    pictures = [noise(300, 200, seed) for seed in (0, 1)]
    batch = letterbox_tensor(torch.stack([tv.to_tensor(picture) for picture in pictures]))
    torch.testing.assert_close(batch, torch.stack([letterbox(picture) for picture in pictures]), rtol=0, atol=2e-6)


@pytest.mark.parametrize("make", [noise, smooth])
@pytest.mark.parametrize("offset", [floor_half, round_half])
def test_the_middle_square_of_tensors_is_within_8_bit_rounding_of_pictures(make, offset):
    picture = make(1216, 832)
    batch = centre_crop_tensor(tv.to_tensor(picture)[None], 224, offset)
    assert ((batch[0] - centre_crop(picture, 224, offset)) * STD).abs().max() < 0.01


@pytest.mark.parametrize("prepare", [letterbox_tensor, centre_crop_tensor])
def test_gradients_reach_the_image(prepare):
    images = torch.rand(2, 3, 40, 30, generator=torch.Generator().manual_seed(0)).requires_grad_()
    prepare(images, 28).square().sum().backward()
    assert images.grad is not None
    assert (images.grad.flatten(1).abs().sum(dim=1) > 0).all()


def test_opaque_rgba_and_palette_pictures_are_their_rgb():
    picture = noise(40, 30).quantize(16)
    rgb = picture.convert("RGB")
    assert picture.mode == "P"
    for variant in (picture, rgb.convert("RGBA"), rgb):
        assert torch.equal(letterbox(variant, 28), letterbox(rgb, 28))
        assert torch.equal(centre_crop(variant, 28), centre_crop(rgb, 28))


@pytest.mark.parametrize("size", [(1, 1), (37, 23), (2200, 2300)])  # Pillow holds the last one in two pieces
def test_levels_are_those_that_pillow_hands_out_and_outlive_the_picture(size):
    picture = noise(*size)
    wanted = np.array(picture)
    found = rgb_levels(picture)
    del picture
    assert found.shape == (*wanted.shape[:2], 4)
    assert np.array_equal(found[..., :3].numpy(), wanted)


def test_what_is_shared_is_what_each_makes_alone():
    # Of 59 x 28 the two middles differ by a pixel.
    for picture in (noise(300, 300), noise(333, 224), noise(59, 28), noise(40, 30).quantize(16)):
        alone = [centre_crop(picture, 28), centre_crop(picture, 28, round_half), letterbox(picture, 28)]
        with shared_resizing(picture):
            shared = [centre_crop(picture, 28), centre_crop(picture, 28, round_half), letterbox(picture, 28)]
            assert resize(picture, 9, 9) is resize(picture, 9, 9)
            assert centre_crop(picture, 28) is not shared[0]  # either may be written to
        assert all(torch.equal(*pair) for pair in zip(shared, alone, strict=True))


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_16_bit_grey_is_scaled_and_not_cut_off(dtype):
    levels = np.array([[0, 128, 129, 257, 32768, 65406, 65535]], dtype=dtype)
    rounded = [0, 0, 1, 1, 128, 254, 255]  # level / 257 is 0, 0.498, 0.502, 1, 127.502, 254.498, 255
    assert np.asarray(to_rgb(Image.fromarray(levels)))[0].tolist() == [[grey] * 3 for grey in rounded]


def test_float_pixels_are_refused():
    with pytest.raises(ValueError, match="no fixed range"):
        to_rgb(Image.fromarray(np.zeros((2, 2), dtype=np.float32)))


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_a_truncated_file_is_an_error_every_time(form):
    file = io.BytesIO()
    noise(64, 64).save(file, form)
    picture = Image.open(io.BytesIO(file.getvalue()[: len(file.getvalue()) // 2]))
    for _ in range(2):  # half a picture must not pass at the second reward
        with pytest.raises(OSError, match="truncated"):
            centre_crop(picture)


def test_a_plugin_that_stumbles_is_a_value_error():
    class Stumbling(Image.Image):
        def load(self):
            raise SyntaxError("broken PNG file")

    with pytest.raises(ValueError, match="damaged picture: broken PNG file"):
        to_rgb(Stumbling())


def test_exif_orientation_is_not_applied():
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (224, 112), "white").save(file, "PNG", exif=exif)
    pixels = letterbox(Image.open(file))
    assert (pixels[0, :56] < 0).all()
