from __future__ import annotations

import io

import pytest
from PIL import Image, ImageFont

import palate.datasets.fonts as fonts
from palate.datasets.contact_sheet import contact_sheet, sample_through, save_contact_sheet
from palate.datasets.group import Group

GREEN, YELLOW = (0x2E, 0x9E, 0x4F), (0xB5, 0x89, 0x00)


def columns_of(sheet: Image.Image, colour: tuple[int, int, int]) -> list[int]:
    """The x of every column that holds at least 100 pixels of a colour."""
    width, height = sheet.size
    pixels = sheet.load()
    return [x for x in range(width) if sum(pixels[x, y] == colour for y in range(height)) >= 100]


def test_the_winner_stands_left_in_a_green_frame(picture):
    blue = Image.new("RGB", (64, 64), "blue")
    buffer = io.BytesIO()
    blue.save(buffer, "PNG")
    sheet = contact_sheet([Group("k", "p", (picture(0, 64, 64), buffer.getvalue()), (0.0, 1.0))])
    framed = columns_of(sheet, GREEN)
    assert framed
    assert max(framed) < sheet.width / 2
    top = [sheet.getpixel((sheet.width // 4, y)) for y in range(sheet.height)]
    assert top.count((0, 0, 255)) > 100  # the blue picture is the one inside the frame
    assert not columns_of(sheet, YELLOW)


def test_a_tie_has_yellow_frames_and_a_single_picture_none(picture):
    tie = contact_sheet([Group("k", "p", (picture(0), picture(1)), (0.5, 0.5))])
    assert columns_of(tie, YELLOW)
    assert not columns_of(tie, GREEN)
    single = contact_sheet([Group("k", "p", (picture(0),), (1.0,))])
    assert not columns_of(single, GREEN)
    assert not columns_of(single, YELLOW)


@pytest.mark.parametrize(
    "prompt",
    [
        "赤い円と青い四角",
        "قطة حمراء",
        "кошка",
        "🐱 and 👨‍👩‍👧",
        "",
        "\x00\x1b\n\u202e",
        "x" * 5000,
        "a " * 5000,
        "क्षि",
        "\u0301",
    ],
)
def test_any_prompt_can_be_drawn(picture, prompt):
    assert contact_sheet([Group("ключ", prompt, (picture(0), picture(1)), (1, 0))]).size[0] > 200


def test_without_any_font_file_pillows_own_is_used(picture, monkeypatch):
    monkeypatch.setattr(fonts, "_font_files", tuple)
    assert isinstance(fonts.font_for("a", 12), ImageFont.FreeTypeFont | ImageFont.ImageFont)
    contact_sheet([Group("k", "赤い円 a cat", (picture(0), picture(1)), (1, 0))])


def test_unreadable_and_odd_pictures_and_an_empty_set_are_drawn(picture):
    odd = (picture(0, 4000, 9, "JPEG"), b"", picture(1, 64, 64, "JPEG")[:300], picture(2, 1, 1), picture(3), picture(4))
    contact_sheet([Group("k", "p", odd, (1, 2, 3, 4, 5, 6)), Group("k2", "p", (b"",), (1,))])
    assert contact_sheet([]).size[0] > 100


def test_the_sample_is_uniform_in_order_and_seeded():
    groups = [Group(f"{n:04d}", "p", (b"x",), (1,)) for n in range(1000)]
    chosen: list[Group] = []
    assert list(sample_through(groups, chosen, count=20)) == groups
    keys = [group.key for group in chosen]
    assert len(keys) == 20
    assert keys == sorted(keys)
    again: list[Group] = []
    list(sample_through(iter(groups), again, count=20))
    assert again == chosen
    counts = [0] * 10
    for seed in range(300):
        few: list[Group] = []
        list(sample_through(groups[:10], few, count=3, seed=seed))
        for group in few:
            counts[int(group.key)] += 1
    assert all(55 <= count <= 130 for count in counts)  # 90 expected, standard deviation 8
    short: list[Group] = []
    list(sample_through(groups[:3], short))
    assert short == groups[:3]


def test_the_file_is_a_png_and_nothing_else_is_left(tmp_path, picture):
    path = save_contact_sheet([Group("k", "p", (picture(0), picture(1)), (1, 0))], tmp_path / "new" / "sheet.png")
    assert Image.open(path).format == "PNG"
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["sheet.png"]
