import hashlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.datasets.shapes.prompts import (
    CATEGORIES,
    Wanted,
    all_prompts,
    draw_prompts,
    draw_scene,
    holds,
    is_held_out,
    parse,
)

EVERY = list(all_prompts())
SIZES = {"single_object": 24, "two_object": 72, "counting": 72, "colors": 144, "position": 288, "color_attr": 2160}


def test_the_grammar_has_2760_different_sentences():
    assert Counter(p.category for p in EVERY) == SIZES
    assert len({p.text for p in EVERY}) == 2760


def test_every_prompt_is_read_back_as_it_was_meant():
    assert [parse(p.text) for p in EVERY] == EVERY


def test_parse_by_hand():
    both = parse("an image of a red circle and a blue cross")
    assert (both.category, both.wanted) == ("color_attr", (Wanted("circle", "red"), Wanted("cross", "blue")))
    crosses = parse("a photo of four crosses")
    assert (crosses.category, crosses.wanted) == ("counting", (Wanted("cross", None, 4),))
    beside = parse("A view of a square left of a triangle ")
    assert (beside.category, beside.relation) == ("position", "left of")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a photo of",
        "a photo of a dog",
        "a photo of five circles",
        "a photo of two circle",
        "a photo of a red",
        "circle",
    ],
)
def test_what_is_no_prompt_is_refused(text):
    with pytest.raises(ValueError, match="is not a prompt of the shapes world"):
        parse(text)


def test_the_halves_are_disjoint_and_never_move():
    held_out = [p for p in EVERY if is_held_out(p.text)]
    assert Counter(p.category for p in held_out) == {
        "single_object": 11, "two_object": 34, "counting": 31, "colors": 68, "position": 140, "color_attr": 1090,
    }  # fmt: skip
    digest = hashlib.blake2b("\n".join(p.text for p in held_out).encode(), digest_size=8).hexdigest()
    assert digest == "9e53e7731f9349c6"
    seen = {p.text for p in draw_prompts(1200, 0, held_out=False)}
    asked = {p.text for p in draw_prompts(1200, 0, held_out=True)}
    assert not seen & asked
    assert all(is_held_out(text) for text in asked)
    assert not any(is_held_out(text) for text in seen)


def test_both_halves_name_every_shape():
    for half in (True, False):
        single = [p for p in EVERY if p.category == "single_object" and is_held_out(p.text) is half]
        assert {p.wanted[0].shape for p in single} == {"circle", "square", "triangle", "cross"}


def test_draws_are_balanced_golden_and_grow_without_changing():
    drawn = draw_prompts(600, 5, held_out=True)
    assert Counter(p.category for p in drawn) == dict.fromkeys(CATEGORIES, 100)
    assert draw_prompts(60, 5, held_out=True) == drawn[:60]
    assert draw_prompts(60, 6, held_out=True) != drawn[:60]
    assert [p.text for p in draw_prompts(3, 0, held_out=True)] == [
        "a drawing of a cross",
        "a painting of a cross and a triangle",
        "a drawing of three circles",
    ]


def test_a_category_repeats_only_when_it_is_used_up():
    texts = Counter(p.text for p in draw_prompts(600, 5, held_out=True))
    repeats = {c: {texts[t] for t in texts if parse(t).category == c} for c in CATEGORIES}
    assert repeats["color_attr"] == repeats["position"] == {1}
    assert repeats["single_object"] == {9, 10}  # 100 draws from 11
    assert repeats["counting"] == {3, 4}  # 100 draws from 31


@pytest.mark.parametrize("prompt", EVERY[::23], ids=lambda p: p.text)
def test_scenes_obey_their_prompt(prompt):
    scene = draw_scene(prompt, np.random.default_rng(1))
    asked = Counter({w.shape: w.count for w in prompt.wanted})
    assert Counter(item.shape for item in scene) == asked
    for item, wanted in zip(scene, (w for w in prompt.wanted for _ in range(w.count)), strict=True):
        assert wanted.colour in (None, item.colour)
    if prompt.relation is not None:
        dx, dy = scene[1].x - scene[0].x, scene[1].y - scene[0].y
        along, across = {
            "left of": (dx, dy), "right of": (-dx, dy), "above": (dy, dx), "below": (-dy, dx),
        }[prompt.relation]  # fmt: skip
        assert along > 4
        assert along > abs(across) + 1


def test_colours_left_open_differ_between_draws():
    prompt = parse("a photo of three circles")
    rng = np.random.default_rng(0)
    assert len({item.colour for _ in range(40) for item in draw_scene(prompt, rng)}) == 6


@given(*[st.floats(0, 32)] * 4)
def test_at_most_one_relation_holds_and_its_opposite_the_other_way(x, y, other_x, other_y):
    first, second = (x, y), (other_x, other_y)
    held = [r for r in ("left of", "right of", "above", "below") if holds(r, first, second)]
    assert len(held) <= 1
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    assert [opposite[r] for r in held] == [r for r in opposite if holds(r, second, first)]


def test_relations_by_hand():
    assert holds("left of", (10, 10), (13.1, 12))
    assert not holds("left of", (10, 10), (13.0, 12))  # not by more than 3 pixels
    assert not holds("left of", (10, 10), (16, 16.5))  # further below than beside
    assert holds("above", (10, 10), (16, 16.5))  # y grows downwards
    assert not holds("above", (10, 10), (16, 16.5), slack=1.0)
