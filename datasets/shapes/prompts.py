"""Prompts of the shapes world: a small grammar in GenEval's six categories (Ghosh et al. 2023, arXiv 2310.11513)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations, product

import numpy as np

from .world import COLOURS, SHAPES, Shape, place

CATEGORIES = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
RELATIONS = {"left of": (1, 0), "right of": (-1, 0), "above": (0, 1), "below": (0, -1)}
OPENINGS = ("a photo of", "a picture of", "an image of", "a drawing of", "a painting of", "a view of")
COUNTS = {"two": 2, "three": 3, "four": 4}
POSITION_MARGIN = 3.0  # pixels by which two centres must differ along a relation's axis


@dataclass(frozen=True)
class Wanted:
    """What a prompt asks for: `count` shapes of one kind, of one colour or (None) of any."""

    shape: str
    colour: str | None = None
    count: int = 1


@dataclass(frozen=True)
class Prompt:
    """A prompt's text and its meaning. `relation` holds between the first and the second wanted object."""

    text: str
    category: str
    wanted: tuple[Wanted, ...]
    relation: str | None = None


def all_prompts() -> Iterator[Prompt]:
    """Every sentence of the grammar, category by category, in a fixed order."""
    colours = list(COLOURS)
    for opening, shape in product(OPENINGS, SHAPES):
        yield Prompt(f"{opening} a {shape}", "single_object", (Wanted(shape),))
    for opening, (a, b) in product(OPENINGS, permutations(SHAPES, 2)):
        yield Prompt(f"{opening} a {a} and a {b}", "two_object", (Wanted(a), Wanted(b)))
    for opening, (word, count), shape in product(OPENINGS, COUNTS.items(), SHAPES):
        yield Prompt(f"{opening} {word} {_plural(shape)}", "counting", (Wanted(shape, None, count),))
    for opening, colour, shape in product(OPENINGS, colours, SHAPES):
        yield Prompt(f"{opening} a {colour} {shape}", "colors", (Wanted(shape, colour),))
    for opening, relation, (a, b) in product(OPENINGS, RELATIONS, permutations(SHAPES, 2)):
        yield Prompt(f"{opening} a {a} {relation} a {b}", "position", (Wanted(a), Wanted(b)), relation)
    for opening, (c, d), (a, b) in product(OPENINGS, permutations(colours, 2), permutations(SHAPES, 2)):
        yield Prompt(f"{opening} a {c} {a} and a {d} {b}", "color_attr", (Wanted(a, c), Wanted(b, d)))


def _plural(shape: str) -> str:
    return shape + ("es" if shape.endswith("s") else "s")


_ARTICLE = rf"a (?:({'|'.join(COLOURS)}) )?({'|'.join(SHAPES)})"
_SENTENCE = re.compile(
    rf"(?:{'|'.join(OPENINGS)}) "
    rf"(?:({'|'.join(COUNTS)}) ({'|'.join(_plural(s) for s in SHAPES)})"
    rf"|{_ARTICLE}(?: (and|{'|'.join(RELATIONS)}) {_ARTICLE})?)"
)


def parse(text: str) -> Prompt:
    """Read a sentence of the grammar back.

    Raises:
        ValueError: the text is not a sentence of the shapes world.
    """
    match = _SENTENCE.fullmatch(text.strip().lower())
    if match is None:
        raise ValueError(f"{text!r} is not a prompt of the shapes world, such as 'a photo of a red circle'")
    number, many, colour, shape, joint, colour2, shape2 = match.groups()
    if number:
        kind = next(s for s in SHAPES if _plural(s) == many)
        return Prompt(text, "counting", (Wanted(kind, None, COUNTS[number]),))
    if not joint:
        return Prompt(text, "colors" if colour else "single_object", (Wanted(shape, colour),))
    both = (Wanted(shape, colour), Wanted(shape2, colour2))
    if joint in RELATIONS:
        return Prompt(text, "position", both, joint)
    return Prompt(text, "color_attr" if colour or colour2 else "two_object", both)


def is_held_out(text: str) -> bool:
    """Whether a prompt belongs to the evaluation half; decided by its hash, so it never moves between halves."""
    return hashlib.blake2b(text.encode(), digest_size=1).digest()[0] % 2 == 1


def draw_prompts(count: int, seed: int, held_out: bool) -> list[Prompt]:
    """Draw prompts of one half, the six categories in turn, without repeats until a category is used up."""
    rng = np.random.default_rng([seed, int(held_out)])
    queues: dict[str, list[Prompt]] = {}
    half: dict[str, list[Prompt]] = {category: [] for category in CATEGORIES}
    for prompt in all_prompts():
        if is_held_out(prompt.text) == held_out:
            half[prompt.category].append(prompt)
    drawn = []
    for position in range(count):
        category = CATEGORIES[position % len(CATEGORIES)]
        if not queues.get(category):
            queues[category] = [half[category][i] for i in rng.permutation(len(half[category]))]
        drawn.append(queues[category].pop())
    return drawn


def draw_scene(prompt: Prompt, rng: np.random.Generator) -> list[Shape]:
    """A random scene that fulfils the prompt and holds nothing else; colours left open are drawn at random."""
    kinds = [(wanted.shape, wanted.colour) for wanted in prompt.wanted for _ in range(wanted.count)]
    while True:
        places = place(len(kinds), rng)
        if prompt.relation is None or holds(prompt.relation, places[0][:2], places[1][:2], slack=1.0):
            break
    names = list(COLOURS)
    return [
        Shape(shape, colour or names[rng.integers(len(names))], x, y, radius)
        for (shape, colour), (x, y, radius) in zip(kinds, places, strict=True)
    ]


def holds(relation: str, first: tuple[float, float], second: tuple[float, float], slack: float = 0.0) -> bool:
    """Whether `first` stands in `relation` to `second`: along its axis by `POSITION_MARGIN`, and more than across it.

    `slack`: pixels by which both must be exceeded, so that a scene drawn with it is no borderline case.
    """
    dx, dy = second[0] - first[0], second[1] - first[1]
    along_x, along_y = RELATIONS[relation]
    along = dx * along_x + dy * along_y
    across = abs(dy) if along_x else abs(dx)
    return along > max(POSITION_MARGIN, across) + slack
