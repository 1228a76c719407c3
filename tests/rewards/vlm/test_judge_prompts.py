"""Rubrics and the words that are read."""

import math

import pytest

from palate.rewards.judge_marks import read_marks
from palate.rewards.judge_prompts import RUBRICS


@pytest.mark.parametrize("rubric", RUBRICS.values(), ids=lambda rubric: rubric.name)
def test_every_rubric_asks_for_what_is_read(rubric):
    assert rubric.template.count("{prompt}") == 1
    filled = "\n".join(f"{label}: {index + 1}" for index, label in enumerate(rubric.labels.values()))
    assert list(read_marks(filled, rubric).values()) == [index + 1 for index in range(len(rubric.labels))]
    assert all(label in rubric.template for label in rubric.labels.values())
    assert all(math.isnan(mark) for mark in read_marks(rubric.template, rubric).values())  # an echo is no mark
