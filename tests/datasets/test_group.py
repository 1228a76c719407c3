from __future__ import annotations

import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.datasets.group import Group

LABELS = st.lists(st.floats(-100, 100), min_size=1, max_size=6)


def make(labels, **fields) -> Group:
    fields.setdefault("candidates", [bytes([index]) for index in range(len(labels))])
    return Group("k", "a cat", labels=labels, **fields)


@given(LABELS)
def test_sorting_takes_everything_along_and_keeps_the_order_of_ties(labels):
    k = len(labels)
    group = make(labels, seed=range(k), model=[f"m{i}" for i in range(k)], captions=[f"c{i}" for i in range(k)])
    ranked = group.sorted_by_label()
    expected = sorted(range(k), key=lambda index: (-labels[index], index))
    assert ranked.seed == tuple(expected)
    assert ranked.candidates == tuple(bytes([index]) for index in expected)
    assert ranked.model == tuple(f"m{index}" for index in expected)
    assert ranked.captions == tuple(f"c{index}" for index in expected)
    assert list(ranked.labels) == sorted(labels, reverse=True)


def test_sorting_takes_aspects_along():
    ranked = make([1, 3, 2], aspects={"style": [10, 30, 20]}).sorted_by_label()
    assert ranked.aspects == {"style": (30.0, 20.0, 10.0)}


@pytest.mark.parametrize(
    ("labels", "tie"), [([0.5, 0.5], True), ([1, 0], False), ([1, 1, 0], False), ([1], False), ([2, 2, 2], True)]
)
def test_a_tie_prefers_nothing_and_a_single_candidate_is_none(labels, tie):
    assert make(labels).is_tie is tie


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"labels": [1.0, math.nan]}, "'k' has a label that is not finite"),
        ({"labels": [1.0, math.inf]}, "not finite"),
        ({"labels": [], "candidates": []}, "'k' has no candidates"),
        ({"labels": [1, 0], "candidates": [b"a"]}, "has 1 candidates but 2 labels"),
        ({"labels": [1, 0], "captions": ["a"]}, "2 candidates but 1 captions"),
        ({"labels": [1, 0], "seed": [1]}, "2 candidates but 1 seed"),
        ({"labels": [1, 0], "aspects": {"style": [1.0]}}, "1 aspect 'style'"),
        ({"labels": [1, 0], "seed": [1, 2**63]}, "64 bits"),
        ({"labels": [1, 0], "candidates": ["a", "b"]}, "must be bytes"),
        ({"labels": [1, 0], "captions": ["a", "\ud83d"]}, "not valid Unicode"),
    ],
)
def test_a_bad_group_is_refused_with_its_key_and_fault(fields, message):
    with pytest.raises(ValueError, match=message):
        make(**fields)


def test_a_group_needs_a_key():
    with pytest.raises(ValueError, match="key"):
        Group("", "p", (b"x",), (1.0,))


def test_a_group_is_a_value():
    group = make([1, 0], aspects={"a": [1, 2]})
    assert pickle.loads(pickle.dumps(group)) == group
    assert hash(group) == hash(make([1, 0], aspects={"a": [1, 2]}))
    assert make([1], aspects={}).aspects is None


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"source": 5}, "the source is a int in place of a text"),
        ({"rater": 5}, "the rater is a int"),
        ({"model": [None, 3]}, "the model of candidate 1 is a int"),
        ({"captions": ["x", None]}, "a caption is missing"),
        ({"captions": ["x", ""]}, "a caption is missing"),
        ({"captions": [" \n", "x"]}, "a caption is missing"),
    ],
)
def test_what_should_be_text_is_text(fields, told):
    with pytest.raises(ValueError, match=told):
        make([1.0, 0.0], **fields)
