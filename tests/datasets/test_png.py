"""PNG files unpacked ahead: Pillow makes the same picture of them, or the same complaint."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from palate.datasets import png
from palate.datasets.images import MAX_PIXELS
from palate.datasets.png import stored
from palate.rewards.scoring.picture_file import read_picture

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


def picture(mode: str, width: int = 37, height: int = 23) -> Image.Image:
    rng = np.random.default_rng(0)
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, (height, width), dtype=np.uint16))
    rgba = np.cumsum(rng.integers(0, 9, (height, width, 4)), axis=1).astype(np.uint8)  # smooth: all filters are used
    return Image.fromarray(rgba).convert("RGB" if mode == "P" else mode).convert(mode)


def saved(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Kinds and bodies; every checksum holds."""
    found, at = [], 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert data[at : at + 12 + length] == chunk(kind, body)
        found.append((kind, body))
        at += 12 + length
    return found


def outcome(data: bytes) -> tuple[object, ...]:
    """What Pillow makes of it."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return image.mode, image.size, image.info, image.getpalette(), image.tobytes()
    except Exception as error:
        return type(error), str(error).split(" object")[0].split("<")[0]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(1, 1), (37, 23), (300, 200)])
def test_pillow_makes_the_same_of_it(mode: str, size: tuple[int, int]) -> None:
    data = saved(picture(mode, *size))
    again = stored(data)
    assert again != data
    assert outcome(again) == outcome(data)
    assert len(outcome(data)) == 5


def test_rows_are_stored_and_all_else_is_as_it_was() -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", "a red circle, steps: 20")
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(picture("RGB", 400, 300), pnginfo=text, exif=exif, icc_profile=b"profile", dpi=(72, 72))
    before, after = chunks(data), chunks(stored(data))
    assert [one for one in after if one[0] != b"IDAT"] == [one for one in before if one[0] != b"IDAT"]
    packed = b"".join(body for kind, body in before if kind == b"IDAT")
    (rows,) = (body for kind, body in after if kind == b"IDAT")
    assert zlib.decompress(rows) == zlib.decompress(packed)
    assert len(rows) == 2 + 300 * 1201 + 6 * 5 + 4  # header, rows, six blocks of 65535 bytes at most, checksum
    assert read_picture(data).size == (300, 400)


def test_a_read_picture_is_unpacked_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []
    monkeypatch.setattr(
        png.isal_zlib, "adler32", lambda rows, found=png.isal_zlib.adler32: seen.append(rows) or found(rows)
    )
    data = saved(picture("RGB"))
    assert np.array_equal(np.asarray(read_picture(data)), np.asarray(picture("RGB")))
    assert len(seen) == 1


def test_an_animations_first_frame_is_the_same() -> None:
    frames = [picture("RGB"), picture("RGB").rotate(180), picture("RGB").rotate(90)]
    data = saved(frames[0], save_all=True, append_images=frames[1:])
    assert stored(data) != data
    assert outcome(stored(data)) == outcome(data)


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "GIF", "BMP"])
def test_other_formats_stay_as_they_are(form: str) -> None:
    file = io.BytesIO()
    picture("RGB").save(file, form)
    assert stored(file.getvalue()) == file.getvalue()


def interlaced() -> bytes:
    """1 x 1 pixel; the one pass that holds it is the picture."""
    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0\7")) + chunk(b"IEND", b"")


def test_an_interlaced_picture_stays_as_it_is() -> None:
    assert stored(interlaced()) == interlaced()
    assert outcome(interlaced())[0] == "L"


def test_what_a_bomb_unpacks_to_is_never_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Stream:
        eof = True

        def decompress(self, data: bytes, most: int) -> bytes:
            asked.append(most)
            return zlib.decompressobj().decompress(data, most)

    monkeypatch.setattr(png.isal_zlib, "decompressobj", Stream)
    small = struct.pack(">IIBBBBB", 10, 10, 8, 0, 0, 0, 0)  # says 110 bytes of rows, and holds ten million
    large = struct.pack(">IIBBBBB", MAX_PIXELS, 2, 8, 6, 0, 0, 0)
    for header in (small, large):
        rows = chunk(b"IDAT", zlib.compress(bytes(10**7)))
        bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rows + chunk(b"IEND", b"")
        assert stored(bomb) == bomb
    assert asked == [111]


def test_many_small_chunks_are_left_to_pillow() -> None:
    header = struct.pack(">IIBBBBB", 2, 1, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" + bytes(range(6)))
    for empty, same in ((2**14 - 2, False), (2**14 + 1, True)):
        body = chunk(b"IDAT", b"") * empty + chunk(b"IDAT", rows)
        data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")
        assert (stored(data) == data) is same
        assert np.asarray(read_picture(data)).tolist() == [[[0, 1, 2], [3, 4, 5]]]


@pytest.mark.parametrize("damaged", [lambda z: z[:-4], lambda z: b"\x88\x1c" + z[2:], lambda z: z[:-1] + b"?"])
def test_a_stream_that_pillow_refuses_is_not_mended(damaged) -> None:
    """No checksum, a window that is too large, another checksum."""
    header = struct.pack(">IIBBBBB", 30, 20, 8, 0, 0, 0, 0)
    rows = damaged(zlib.compress(bytes(20 * 31)))
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    assert stored(data) == data


def test_damage_is_pillows_matter() -> None:
    """Bytes changed, cut off or put in anywhere: the picture or the complaint is what Pillow alone comes to."""
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", "a red circle, " * 3000)
    data = saved(picture("RGB", 300, 200), pnginfo=text)  # several IDAT chunks
    assert sum(kind == b"IDAT" for kind, _ in chunks(data)) > 1
    rng = np.random.default_rng(1)
    unpacked = 0
    for _ in range(600):
        broken = bytearray(data)
        place = int(rng.integers(8, len(data)))
        match rng.integers(3):
            case 0:
                broken[place] ^= 1 << int(rng.integers(8))
            case 1:
                del broken[place:]
            case _:
                broken[place:place] = rng.bytes(int(rng.integers(1, 20)))
        found = stored(bytes(broken))
        unpacked += found != broken
        assert outcome(found) == outcome(bytes(broken)), place
    assert 50 < unpacked < 500  # damage elsewhere than in the rows


@pytest.mark.parametrize("cut", [0, 3, 8, 20, 33, 34, 45])
def test_a_files_first_bytes_alone_stay_as_they_are(cut: int) -> None:
    data = saved(picture("L"))[:cut]
    assert stored(data) == data


def test_bytes_behind_the_end_stay() -> None:
    header = struct.pack(">IIBBBBB", 2, 1, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" + bytes(range(6)))
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"") + b"behind"
    assert stored(data).endswith(b"behind")
    assert np.asarray(read_picture(data)).tolist() == [[[0, 1, 2], [3, 4, 5]]]
