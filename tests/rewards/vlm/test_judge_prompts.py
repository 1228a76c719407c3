"""Answers as models give them, and what they say."""

import math

import pytest

from palate.rewards.judge_prompts import PAIR, RUBRICS, UNIFIEDREWARD, UNIFIEDREWARD_2, VISIONPREFER, read_marks
from palate.rewards.judge_prompts import read_verdict as verdict

NONE = math.nan


@pytest.mark.parametrize(
    ("answer", "mark"),
    [
        ("Final Score: 4", 4),
        ("dog (animal): 1\nred (attribute): 0\nFinal Score: 3.5", 3.5),
        ("final score : 2.25.", 2.25),
        ("**Final Score:** 4", 4),
        ("**Final Score: 4.5**", 4.5),
        ("### Final Score\uff1a *1*", 1),
        ("Final Score (1-5): 5", 5),
        ("Final Score = [3]", 3),
        ("Final Score: 4/5", 4),
        ("Final Score: 4.0 / 5.0", 4),
        ("Final Score: 4 out of 5, since the dog is there", 4),
        ("Final Score: 4. The 2 dogs are there.", 4),
        ("Final Score:\n4", 4),
        ("Final Score: 4\nAgain, Final Score: 4.0", 4),
        ("<think>Final Score: 1 or 2?</think><answer>Final Score: 2</answer>", 2),
        ("", NONE),
        ("4", NONE),
        ("Score: 4", NONE),
        ("Semifinal Score: 4", NONE),
        ("Final Score: X", NONE),
        ("Final Score: four", NONE),
        ("Final Score: 0", NONE),
        ("Final Score: 0.99", NONE),
        ("Final Score: 5.01", NONE),
        ("Final Score: -3", NONE),
        ("Final Score: 45", NONE),
        ("Final Score: 8/10", NONE),
        ("Final Score: 4/10", NONE),
        ("Final Score: 4 out of 10", NONE),
        ("Final Score: 3-4", NONE),
        ("Final Score: 3 to 4", NONE),
        ("Final Score: 3, 4", NONE),
        ("Final Score: 3,5", NONE),
        ("Final Score: 3%", NONE),
        ("Final Score: 1.2.3", NONE),
        ("Final Score: 3rd", NONE),
        ("Final Score: 3\nFinal Score: 4", NONE),
        ("Final Score:\n1. The dog is missing", NONE),
        ("The final score is high", NONE),
    ],
)
def test_final_scores(answer, mark):
    assert read_marks(answer, UNIFIEDREWARD) == pytest.approx({"overall": mark}, nan_ok=True)


def test_three_lines():
    answer = "Alignment Score (1-5): 3.62\nCoherence Score (1-5): 4\n- **Style Score (1-5):** 2.9"
    assert read_marks(answer, UNIFIEDREWARD_2) == {"alignment": 3.62, "coherence": 4.0, "style": 2.9}
    partly = read_marks("Alignment Score (1-5): 3.62\nCoherence Score (1-5): 7\nStyle Score", UNIFIEDREWARD_2)
    assert partly == pytest.approx({"alignment": 3.62, "coherence": NONE, "style": NONE}, nan_ok=True)


def test_four_aspects_in_any_order():
    answer = "harmlessness score: 5\nAESTHETIC SCORE: 2\nPrompt-Following Score: 1.5\nFidelity Score: 3"
    expected = {"prompt_following": 1.5, "aesthetic": 2.0, "fidelity": 3.0, "harmlessness": 5.0}
    assert read_marks(answer, VISIONPREFER) == expected


@pytest.mark.parametrize("rubric", RUBRICS.values(), ids=lambda rubric: rubric.name)
def test_every_rubric_asks_for_what_is_read(rubric):
    assert rubric.template.count("{prompt}") == 1
    filled = "\n".join(f"{label}: {index + 1}" for index, label in enumerate(rubric.labels.values()))
    assert list(read_marks(filled, rubric).values()) == [index + 1 for index in range(len(rubric.labels))]
    assert all(label in rubric.template for label in rubric.labels.values())
    assert all(math.isnan(mark) for mark in read_marks(rubric.template, rubric).values())  # an echo is no mark


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Image 1 is better.", "first"),
        ("Image 2 is better than Image 1.", "second"),
        ("Both images are equally good.", "both"),
        ("The dog is sharper.\n**Image 2 is better.**", "second"),
        ("image 1 is better", "first"),
        ("Image 1 is better in colour. In all, Image 1 is better.", "first"),
        ("<think>Image 2 is better?</think>\n<answer>Image 1 is better</answer>", "first"),
        ("", None),
        ("Image 1", None),
        ("Image 3 is better.", None),
        ("Image 12 is better.", None),
        ("Image 1 is not better.", None),
        ("Image 1 is better in colour. In all, Image 2 is better.", None),
        ("Image 1 is better. Both images are equally good.", None),
        ("Both images are equally bad.", None),
        (PAIR, None),
    ],
)
def test_verdicts(answer, expected):
    assert verdict(answer) == expected
