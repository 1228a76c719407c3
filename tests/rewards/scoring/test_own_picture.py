"""Each scorer has the picture to itself, whatever it does to it, and the pixels are in memory once."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from palate.errors import PalateError
from palate.rewards.function import from_function
from palate.rewards.pixels import centre_crop, letterbox, shared_resizing
from palate.rewards.scorer import Scorer, scorer_of
from palate.rewards.scoring.asking import input_of, judged
from palate.rewards.scoring.batch import score_images

SIZE = 56


class Pixels:
    """The mean of what `prepare` makes of a picture."""

    name, modality, differentiable, needs_prompts = "pixels", "image", False, False

    def prepare(self, picture):
        return letterbox(picture, SIZE)

    def score_pixels(self, prompts, pixels):
        return pixels.mean(dim=(1, 2, 3))

    def score(self, prompts, media, failures=None):
        return self.score_pixels(prompts, torch.stack([self.prepare(medium) for medium in media])).numpy()


class Shrinking(Pixels):
    name = "shrinking"

    def prepare(self, picture):
        crop = centre_crop(picture, SIZE)
        crop.zero_()
        ImageDraw.Draw(picture).rectangle((0, 0, 30, 30), fill="black")
        picture.putpixel((31, 31), 0)
        picture.thumbnail((8, 8))
        return letterbox(picture, SIZE)


class Halves(Pixels):
    """The upper or the lower half, from pictures that are gone when `prepare` returns."""

    def __init__(self, name: str, top: int) -> None:
        self.name, self.top = name, top

    def prepare(self, picture):
        half = picture.crop((0, self.top, 60, self.top + 30))
        return torch.cat([centre_crop(half.convert("L"), SIZE), centre_crop(half, SIZE)])[:3]


class Cut(Pixels):
    name = "cut"

    def prepare(self, picture):
        return centre_crop(picture, SIZE)


def widths(prompt: str, picture: Image.Image) -> float:
    return float(picture.width + np.asarray(picture.convert("RGB")).mean())


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "pictures").mkdir()
    for number in range(12):
        levels = np.random.default_rng(number).integers(0, 256, (60, 60, 3), dtype=np.uint8)
        levels[:30] //= 4
        picture = Image.fromarray(levels)
        picture = picture.quantize(16) if number == 3 else picture.convert("L") if number == 4 else picture
        picture.save(tmp_path / "pictures" / f"{number:02}.png")
    return tmp_path / "pictures"


def scores(folder: Path, out: Path, scorers: list[Scorer], workers: int = 1) -> dict[str, list[float]]:
    import pyarrow.parquet as pq

    done = score_images(folder, scorers, out, batch_size=4, workers=workers)
    assert not any(done.failures.values()), done.reasons
    return pq.read_table(out / "scores.parquet").to_pydict()


def plain(name: str) -> Scorer:
    return scorer_of(from_function(name, widths, "1", needs_prompts=False))


@pytest.mark.parametrize("workers", [1, 3])
def test_scorers_that_change_their_picture_or_cut_it_change_nobody_elses(folder, tmp_path, workers):
    rewards = [Pixels(), Cut(), Halves("upper", 0), Halves("lower", 30)]
    alone = {r.name: scores(folder, tmp_path / r.name, [scorer_of(r)])[r.name] for r in rewards}
    alone |= {"widths": scores(folder, tmp_path / "widths", [plain("widths")])["widths"]}
    together = [scorer_of(reward) for reward in (Shrinking(), *rewards)] + [plain("widths")]
    found = scores(folder, tmp_path / "together", together, workers)
    for name, values in alone.items():
        assert found[name] == values, name


def draw(picture: Image.Image) -> None:
    """What Pillow makes a copy for, where the picture is read-only."""
    if picture.mode in ("L", "P", "LA"):
        picture.putpalette([9] * 768)
    picture.putpixel((0, 0), picture.getpixel((8, 8)))
    ImageDraw.Draw(picture).rectangle((0, 0, 4, 4), fill=1 if len(picture.getbands()) == 1 else None, outline=0)
    picture.paste(picture.crop((4, 4, 9, 9)), (0, 0))
    picture.thumbnail((2, 2))


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "LA", "RGBA", "CMYK"])
@pytest.mark.parametrize("kind", ["function", "batched", "pixels"])
def test_whatever_is_drawn_on_a_picture_others_do_not_see_it(mode, kind):
    levels = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    picture = Image.fromarray(levels).convert("RGB").convert(mode)
    before = np.asarray(picture.convert("RGB"))

    class Drawing:
        name, modality, differentiable, batched = "drawing", "image", False, True

        def score(self, prompts, media, failures=None):
            for shown in media:
                draw(shown)
            return np.ones(len(media))

    class Function(Drawing):
        batched = property()  # it has none

        def score(self, prompts, media, failures=None):
            for shown in media:
                shown.load()[0, 0] = shown.load()[8, 8]
                shown.frombytes(bytes(len(shown.tobytes())))
            return super().score(prompts, media, failures)

    class DrawingPixels(Pixels):
        def prepare(self, picture):
            draw(picture)
            return torch.ones(3, 1, 1)

    reward = {"function": Function, "batched": Drawing, "pixels": DrawingPixels}[kind]()
    shown = [input_of(reward, picture) for _ in range(2)]
    assert (shown[0] is picture) == (kind == "batched")  # a block of pictures is in memory once
    assert judged(reward, ["", ""], shown) == [1.0, 1.0]
    assert np.array_equal(np.asarray(picture.convert("RGB")), before)


def test_a_scorer_of_batches_cannot_set_single_pixels_of_what_others_see():
    picture = Image.new("RGB", (9, 9), "red")

    class Writing:
        name, modality, differentiable, batched = "writing", "image", False, True

        def score(self, prompts, media, failures=None):
            media[0].load()[0, 0] = (0, 0, 0)
            return np.ones(len(media))

    with pytest.raises(PalateError, match="the scorer writing failed"):
        judged(Writing(), [""], [input_of(Writing(), picture)])
    assert picture.getpixel((0, 0)) == (255, 0, 0)


def test_scorers_of_pixels_look_at_one_memory():
    seen = []

    class Looking(Pixels):
        def prepare(self, picture):
            seen.append(picture)
            return letterbox(picture, SIZE)

    picture = Image.fromarray(np.zeros((9, 9, 3), dtype=np.uint8))
    for _ in range(2):
        input_of(Looking(), picture)
    assert seen[0] is not seen[1]
    assert seen[0].im is seen[1].im is picture.im
    seen[0].putpixel((0, 0), (255, 0, 0))
    assert not np.asarray(picture).any()


def test_nothing_of_another_picture_is_taken_for_the_shared_ones():
    picture = Image.new("RGB", (60, 60), "red")
    with shared_resizing(picture):
        first = centre_crop(picture, SIZE)
        assert torch.equal(first, centre_crop(picture, SIZE))
        other = Image.new("RGB", (60, 60), "blue")
        assert torch.equal(centre_crop(other, SIZE)[2], first[0] * 0 + centre_crop(other, SIZE)[2, 0, 0])
        assert centre_crop(other, SIZE)[0].mean() < 0 < first[0].mean()


def test_a_picture_that_breaks_a_scorer_costs_its_own_block_alone(folder, tmp_path):
    calls = []

    def wild(prompt: str, picture: Image.Image) -> float:
        calls.append(picture.mode)
        if picture.mode == "L" and calls.count("L") == 1:  # picture 4, the first of the second block
            raise KeyError("x")
        return 1.0

    scorer = scorer_of(from_function("wild", wild, "1", needs_prompts=False))
    with pytest.raises(PalateError, match="the scorer wild failed"):
        score_images(folder, [scorer], tmp_path / "out", batch_size=4, workers=1)
    assert len(calls) == 5
    done = score_images(folder, [plain("widths"), scorer], tmp_path / "out", batch_size=4, workers=1)
    assert done.new["wild"] == 8


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "list.jsonl").write_text('{"image": "pipe.png"}\n')
    done = score_images(tmp_path / "list.jsonl", [plain("widths")], tmp_path / "out")
    assert done.reasons == (("pipe.png", "not a file"),)
