from __future__ import annotations

import contextlib
import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from palate.datasets.group import Group
from palate.datasets.images import FORMATS, UnreadableImageError, decode, first_fault, image_size, inspect
from palate.rewards.scoring.picture_file import read_picture


def encode(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pixel(data: bytes, at=(4, 4)) -> tuple[int, ...]:
    image = decode(data)
    assert image.mode == "RGB"
    return image.getpixel(at)


def test_transparent_pixels_are_laid_on_white():
    assert pixel(encode(Image.new("RGBA", (16, 16), (255, 0, 0, 0)))) == (255, 255, 255)
    assert pixel(encode(Image.new("RGBA", (16, 16), (255, 0, 0, 128)))) == (255, 127, 127)
    assert pixel(encode(Image.new("LA", (16, 16), (0, 0)))) == (255, 255, 255)
    palette = Image.new("P", (16, 16), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert pixel(encode(palette)) == (10, 20, 30)
    assert pixel(encode(palette, transparency=1)) == (255, 255, 255)


def test_sixteen_bit_grey_is_scaled_not_clipped():
    levels = np.full((16, 16), 32896, np.uint16)  # 128 * 257
    assert pixel(encode(Image.fromarray(levels))) == (128, 128, 128)
    assert pixel(encode(Image.fromarray(levels), "TIFF")) == (128, 128, 128)


def test_cmyk_grey_bilevel_and_animation():
    assert pixel(encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "TIFF")) == (255, 0, 0)
    assert pixel(encode(Image.new("L", (16, 16), 77))) == (77, 77, 77)
    assert pixel(encode(Image.new("1", (16, 16), 1))) == (255, 255, 255)
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    assert pixel(encode(frames[0], "GIF", save_all=True, append_images=frames[1:])) == (255, 0, 0)


def test_exif_orientation_turns_the_picture_and_its_size():
    image = Image.new("RGB", (40, 20), "black")
    image.paste("white", (0, 0, 20, 20))  # left half
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise: the left half comes on top
    data = encode(image, exif=exif)
    assert image_size(data) == inspect(data) == (20, 40)
    assert decode(data).size == (20, 40)
    assert pixel(data, (10, 5)) == (255, 255, 255)
    assert pixel(data, (10, 35)) == (0, 0, 0)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_lose_the_picture(picture):
    data = encode(Image.new("RGB", (16, 16), "red"), "JPEG", exif=b"Exif\0\0II*\0garbage here")
    assert decode(data).size == (16, 16)


def test_draft_decodes_a_jpeg_small_but_never_below_what_was_asked():
    data = encode(Image.new("RGB", (800, 400), "green"), "JPEG")
    assert decode(data, at_least=100).size == (200, 100)
    assert decode(data, at_least=101).size == (400, 200)
    assert decode(data).size == image_size(data) == inspect(data) == (800, 400)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("kept", [0.5, 0.95])
def test_truncated_files_are_told(picture, format, kept):
    data = picture(1, 64, 64, format)
    cut = data[: int(len(data) * kept)]
    for read in (decode, inspect):
        read(data)
        with pytest.raises(UnreadableImageError):
            read(cut)


def test_a_jpeg_that_lacks_only_its_end_is_told(picture):
    with pytest.raises(UnreadableImageError, match="truncated"):
        inspect(picture(1, 64, 64, "JPEG")[:-200])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "0 bytes"),
        (b"<html>not found</html>", "not an image of a format that is read: PNG, JPEG, "),
        (encode(Image.new("RGB", (1, 1))), "too small: 1 x 1"),
        (encode(Image.new("RGB", (7, 900))), "too small: 7 x 900"),
        (encode(Image.new("F", (16, 16)), "TIFF"), "float"),
    ],
)
def test_the_reason_is_told(data, reason):
    with pytest.raises(UnreadableImageError, match=reason):
        decode(data)


@pytest.fixture
def ghostscript_runs(tmp_path, monkeypatch):
    """Whether a program called gs, the first on the path, was started."""
    program = tmp_path / "bin/gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # Pillow's memory of whether there is one
    return lambda: (tmp_path / "started").exists()


@pytest.mark.parametrize("read", [decode, inspect, image_size, read_picture])
def test_no_picture_starts_another_program(read, ghostscript_runs):
    eps = encode(Image.new("RGB", (16, 16)), "EPS")
    with pytest.raises(ValueError, match="not an image of a format that is read: PNG, JPEG, "):
        read(eps)
    assert not ghostscript_runs()
    with contextlib.suppress(OSError):
        Image.open(io.BytesIO(eps)).load()
    assert ghostscript_runs()  # Pillow alone would


@pytest.mark.parametrize("format", [*FORMATS, "MPO"])
def test_every_format_that_is_named_is_read(format):
    if format not in {*Image.registered_extensions().values()}:
        pytest.skip(f"this Pillow has no {format}")
    data = encode(Image.new("RGB", (16, 16), (200, 0, 0)), format)
    assert pixel(data) == pytest.approx((200, 0, 0), abs=4)
    assert read_picture(data).size == (16, 16)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_000, 60_000])
def test_a_decompression_bomb_is_refused_before_it_is_unpacked(side):
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(UnreadableImageError, match="more than 89,478,485 pixels"):
        decode(bomb)


def test_the_first_fault_of_a_group_names_the_candidate(picture):
    assert first_fault(Group("k", "p", (picture(0), picture(1)), (1, 0))) is None
    assert first_fault(Group("k", "p", (picture(0), b""), (1, 0))) == "candidate 1: 0 bytes"
