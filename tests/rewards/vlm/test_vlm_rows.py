"""`ask_each` with askers written here: what is refused, damaged or too large costs no other row."""

import io

import pytest
import torch
from PIL import Image

from palate.errors import PalateError
from palate.rewards.vlm_rows import ask_each


def grey(level: int, mode: str = "L") -> Image.Image:
    return Image.new("RGB", (4, 4), (level,) * 3).convert(mode)


def damaged() -> Image.Image:
    data = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(data, "PNG")
    return Image.open(io.BytesIO(data.getvalue()[:1500]))


def levels(pictures, texts):
    """The pictures' grey levels and the text, which show that a row's parts stay together."""
    assert all(picture.mode == "RGB" for row in pictures for picture in row)
    return [
        (*(picture.getpixel((0, 0))[0] for picture in row), text) for row, text in zip(pictures, texts, strict=True)
    ]


def test_batches_and_order():
    sizes = []

    def ask(pictures, texts):
        sizes.append(len(texts))
        return levels(pictures, texts)

    pictures = [[grey(index), grey(100 + index)] for index in range(7)]
    values, reasons = ask_each(ask, pictures, [f"t{index}" for index in range(7)], batch_size=3)
    assert values == [(index, 100 + index, f"t{index}") for index in range(7)]
    assert (reasons, sizes) == ({}, [3, 3, 1])
    assert ask_each(ask, [], [], batch_size=3) == ([], {})


def test_modes_become_rgb():
    pictures = [[grey(51, mode)] for mode in ("RGBA", "L", "P")] + [[Image.new("I;16", (4, 4), 51 * 257)]]
    values, _ = ask_each(levels, pictures, list("abcd"), batch_size=4)
    assert values == [(51, letter) for letter in "abcd"]


def test_a_damaged_picture_costs_only_its_row():
    values, reasons = ask_each(levels, [[grey(1)], [grey(2), damaged()], [grey(3)]], list("abc"), batch_size=8)
    assert values == [(1, "a"), None, (3, "c")]
    assert list(reasons) == [1]
    assert "truncated" in reasons[1]


def test_a_refused_row_costs_only_itself():
    def ask(pictures, texts):
        if bad := [text for text in texts if text.startswith("bad")]:
            raise ValueError(f"refused {bad[0]}")
        return levels(pictures, texts)

    texts = ["a", "b", "bad 1", "c", "bad 2"]
    values, reasons = ask_each(ask, [[grey(index)] for index in range(5)], texts, batch_size=5)
    assert values == [(0, "a"), (1, "b"), None, (3, "c"), None]
    assert reasons == {2: "refused bad 1", 4: "refused bad 2"}


def test_memory_halves_a_batch_and_gives_up_at_one():
    sizes = []

    def ask(pictures, texts, room):
        sizes.append(len(texts))
        if len(texts) > room:
            raise torch.OutOfMemoryError("no room")
        return levels(pictures, texts)

    pictures, texts = [[grey(index)] for index in range(5)], list("abcde")
    values, reasons = ask_each(lambda p, t: ask(p, t, room=2), pictures, texts, batch_size=5)
    assert values == [(index, letter) for index, letter in enumerate("abcde")]
    assert (reasons, sizes) == ({}, [5, 2, 3, 1, 2])
    with pytest.raises(PalateError, match="no room for one question"):
        ask_each(lambda p, t: ask(p, t, room=0), pictures, texts, batch_size=5)


def test_other_errors_are_no_rows_fault():
    def ask(pictures, texts):
        raise TypeError("a bug")

    with pytest.raises(TypeError, match="a bug"):
        ask_each(ask, [[grey(0)]], ["a"], batch_size=1)
