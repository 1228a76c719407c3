import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image, ImageDraw

from palate.datasets.shapes.oracle import judge, read
from palate.datasets.shapes.prompts import draw_prompts, draw_scene, parse
from palate.datasets.shapes.world import COLOURS, SHAPES, SIZE, Shape, render

RED_CIRCLE, BLUE_CROSS = Shape("circle", "red", 9, 10, 5), Shape("cross", "blue", 22, 12, 5)
PAIR = render([RED_CIRCLE, BLUE_CROSS])


def scenes(count: int, seed: int):
    rng = np.random.default_rng(seed)
    return [(prompt, draw_scene(prompt, rng)) for prompt in draw_prompts(count, seed, held_out=True)]


def test_every_rendered_scene_fulfils_its_prompt():
    judged = [(prompt, judge(prompt, render(scene))) for prompt, scene in scenes(600, seed=1)]
    assert [p.text for p, verdict in judged if not (verdict.correct and verdict.score == 1.0)] == []
    assert all(verdict.category == prompt.category for prompt, verdict in judged)


def test_it_reads_a_scene_back():
    for _, scene in scenes(60, seed=2):
        seen = read(render(scene))
        assert len(seen) == len(scene)
        for item in scene:
            found = min(seen, key=lambda s: abs(s.x - item.x) + abs(s.y - item.y))
            assert (found.shape, found.colour) == (item.shape, item.colour)
            assert (found.x, found.y) == pytest.approx((item.x, item.y), abs=0.2)
            assert found.overlap > 0.9


# Limits of false rejections. Squares of 8 pixels under a blur of 1 are nearly circles.
@pytest.mark.parametrize(
    ("blur", "noise", "count", "limit"), [(0.5, 8, 600, 0.01), (0.7, 12, 300, 0.01), (1.0, 8, 300, 0.06)]
)
def test_blur_and_noise_seldom_make_it_err(spoil, blur, noise, count, limit):
    rng = np.random.default_rng(7)
    wrong = [not judge(p, spoil(render(scene), blur, noise, rng)).correct for p, scene in scenes(count, seed=3)]
    assert np.mean(wrong) < limit


def false_prompts(text: str) -> list[str]:
    """Sentences that a scene of `text` does not fulfil, each one word away or with two words exchanged."""
    swaps = [("left of", "right of"), ("above", "below"), ("left of", "above"), ("two", "three"), ("three", "four")]
    plurals = [f"{shape}es" if shape == "cross" else f"{shape}s" for shape in SHAPES]
    words = [pair for names in (plurals, SHAPES, list(COLOURS)) for pair in pairwise(names)] + swaps
    changed = {re.sub(rf"\b({a}|{b})\b", lambda m: b if m[0] == a else a, text) for a, b in words}  # noqa: B023
    return sorted(changed - {text})


def meaning(text: str) -> tuple[object, ...]:
    prompt = parse(text)
    wanted, relation = prompt.wanted, prompt.relation
    if relation in ("right of", "below"):
        return tuple(reversed(wanted)), {"right of": "left of", "below": "above"}[relation]
    return wanted if relation else frozenset(wanted), relation


@pytest.mark.parametrize(("blur", "noise"), [(0, 0), (0.5, 8)])
def test_prompts_that_the_scene_does_not_fulfil_are_rejected(spoil, blur, noise):
    rng = np.random.default_rng(8)
    accepted, asked = [], 0
    for prompt, scene in scenes(180, seed=4):
        picture = spoil(render(scene), blur, noise, rng)
        for text in false_prompts(prompt.text):
            if meaning(text) != meaning(prompt.text):
                asked += 1
                accepted += [text] if judge(text, picture).correct else []
    assert asked > 500
    assert accepted == []


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("a photo of a red circle and a blue cross", 1.0),
        ("a photo of a blue circle and a red cross", 0.0),  # nothing asked for is there, and something else is
        ("a photo of a red circle and a red cross", 1 / 3),
        ("a photo of a circle and a cross", 1.0),
        ("a photo of a circle left of a cross", 1.0),
        ("a photo of a cross left of a circle", 3 / 4),
        ("a photo of a circle above a cross", 3 / 4),
        ("a photo of a red circle", 1 / 2),  # the cross was not asked for
        ("a photo of two circles", 1 / 3),
        ("a photo of three crosses", 1 / 4),
    ],
)
def test_the_score_is_the_fraction_of_demands_that_hold(text, score):
    verdict = judge(text, PAIR)
    assert verdict.score == pytest.approx(score)
    assert verdict.correct == (score == 1.0)


def test_missing_extra_and_empty():
    text = "a photo of three circles"
    circles = [Shape("circle", "red", x, y, 4.5) for x, y in ((7, 7), (22, 8), (8, 23), (23, 23))]
    assert judge(text, render(circles[:3])).correct
    assert judge(text, render(circles[:2])).score == 3 / 4
    assert judge(text, render(circles)).score == 3 / 4
    assert judge(text, render([])).score == 1 / 4  # nothing is there, and nothing that should not be


@pytest.mark.parametrize("shape", SHAPES)
def test_the_wrong_shape_is_told_apart(shape):
    picture = render([Shape(shape, "green", 15.3, 16.8, 5)])
    assert [other for other in SHAPES if judge(f"a photo of a {other}", picture).correct] == [shape]


def test_what_is_no_shape_or_no_colour_is_nothing_asked_for():
    lump = Image.new("RGB", (SIZE, SIZE), (245, 245, 245))
    ImageDraw.Draw(lump).rectangle((3, 14, 28, 17), fill=COLOURS["red"])
    assert [(blob.shape, blob.colour) for blob in read(lump)] == [(None, "red")]
    pink = render([replace(RED_CIRCLE, colour="red")]).point(lambda value: value)
    pixels = np.asarray(pink).copy()
    pixels[(pixels == COLOURS["red"]).all(-1)] = (20, 220, 225)  # turquoise is not in the world
    assert read(Image.fromarray(pixels))[0].colour is None
    assert not judge("a photo of a circle", Image.fromarray(pixels)).correct


def test_touching_shapes_are_not_two_shapes():
    touching = render([Shape("square", "red", 11, 16, 5), Shape("square", "red", 20, 16, 5)])
    assert not judge("a photo of two squares", touching).correct


def test_specks_are_overlooked():
    picture = render([RED_CIRCLE])
    picture.putpixel((28, 28), (25, 25, 25))
    assert judge("a photo of a red circle", picture).correct


def test_other_sizes_and_modes():
    scene = [RED_CIRCLE, BLUE_CROSS]
    text = "a photo of a red circle and a blue cross"
    assert judge(text, render(scene, 64)).correct
    assert judge(text, PAIR.convert("RGBA")).correct
    for blank in (Image.new("L", (1, 1)), Image.new("RGB", (SIZE, SIZE)), Image.new("RGB", (512, 300), "white")):
        assert not judge(text, blank).correct


def test_noise_without_shapes_is_no_shape():
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    assert not judge("a photo of a circle", Image.fromarray(pixels)).correct


def test_a_prompt_of_another_world_is_refused():
    with pytest.raises(ValueError, match="'a dog' is not a prompt of the shapes world"):
        judge("a dog", PAIR)
