"""Which caption each candidate gets, in all four modes."""

from __future__ import annotations

import math

import pytest

from palate.datasets.group import Group
from palate.datasets.skips import Skipped
from palate.t2i.build.captions.answers import Answer
from palate.t2i.build.captions.dual import Draft, draft, finish


def group(labels, **values) -> Group:
    pictures = tuple(bytes([i]) for i in range(len(labels)))
    return Group(key="g", prompt="p", candidates=pictures, labels=labels, **values)


@pytest.mark.parametrize(
    ("mode", "labels", "change"),
    [
        ("caption", (0, 1), (False, False)),
        ("caption", (1, 1), (False, False)),
        ("caption", (1,), (False,)),
        ("perturb", (0, 1), (True, False)),
        ("hybrid", (2, 0, 1), (False, True, True)),
        ("hybrid", (2, 0, 2), (False, True, False)),
        ("perturb", (1, 1), "tie"),
        ("hybrid", (0, 0, 0), "tie"),
        ("perturb", (1,), "one candidate"),
        ("hybrid", (1,), "one candidate"),
        ("tpo", (1, 1), "tie"),
    ],
)
def test_whose_caption_is_changed(mode, labels, change):
    drafted = draft(group(labels), mode)
    if isinstance(change, str):
        assert drafted == Skipped("g", change)
    else:
        assert drafted == Draft(group(labels), change)


def test_one_picture_twice():
    given = group(
        (0, 5, 5),
        captions=("a", "b", "c"),
        aspects={"style": (1, 2, 3)},
        source="s",
        model=("m", None, "n"),
        seed=(1, 2, 3),
        rater="people",
    )
    drafted = draft(given, "tpo")
    assert isinstance(drafted, Draft)
    assert drafted.change == (False, True)
    twice = drafted.group
    assert (twice.key, twice.prompt, twice.source, twice.rater) == ("g", "p", "s", "tpo")
    assert (twice.candidates, twice.labels, twice.captions) == ((b"\1", b"\1"), (1, 0), ("b", "b"))
    assert (twice.model, twice.seed) == ((None, None), (2, 2))
    assert twice.aspects["style"][0] == 2
    assert math.isnan(twice.aspects["style"][1])
    single = draft(group((3,)), "tpo")
    assert isinstance(single, Draft)
    assert single.group.labels == (1, 0)


def test_captions_in_the_candidates_order():
    given = group((0, 1, 0), model=("a", "b", "c"), rater="people", aspects={"style": (1, 2, 3)})
    drafted = draft(given, "hybrid")
    done = finish(drafted, lambda g, i: Answer(f"shows {i}"), lambda text: Answer(f"not {text}"))
    assert done.captions == ("not shows 0", "shows 1", "not shows 2")
    assert (done.labels, done.model, done.rater, done.aspects) == (given.labels, given.model, "people", given.aspects)


def test_a_missing_answer_costs_the_group():
    drafted = draft(group((0, 1)), "hybrid")
    nothing = Answer(None, "the model says nothing")
    done = finish(drafted, lambda g, i: nothing if i else Answer("x"), Answer)
    assert done == Skipped("g", "no caption", "candidate 1: the model says nothing")
    done = finish(drafted, lambda g, i: Answer("x"), lambda text: nothing)
    assert done == Skipped("g", "caption not changed", "candidate 0: the model says nothing")
