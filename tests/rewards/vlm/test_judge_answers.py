"""Answers as models give them, and what they say."""

import math
import time

import pytest

from palate.rewards.judge_marks import read_marks
from palate.rewards.judge_prompts import PAIR, UNIFIEDREWARD, UNIFIEDREWARD_2, VISIONPREFER
from palate.rewards.judge_verdicts import read_verdict as verdict

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
        ("Final Score: 4 (1-5)", 4),
        ("Final Score: 4 (out of 5).", 4),
        ("Final Score: 4 Out of five", 4),
        ("Final Score: 4 (1 to 5)", 4),
        ("Final Score: 4 ( 1 - 5 )", 4),
        ("Final Score: 4 [1-5 scale]", 4),
        ("Final Score: 4 (on a scale of 1-5)", 4),
        ("Final Score: 4 on a scale from 1 to 5, for the dog", 4),
        ("Final Score: 4 stars out of 5", 4),
        ("Final Score: 4 points out of 5", 4),
        ("Final Score: 4 of 5", 4),
        ("Final Score: [4]/5", 4),
        ("Final Score: (4) out of 5", 4),
        ("Final Score\uff1a4\u3002\u56fe\u4e2d\u67092\u53ea\u72d7\u3002", 4),
        ("Final Score\uff1a4\uff0f5", 4),
        ("Final Score\uff1a4\uff081-5\uff09", 4),
        ("Final Score: 4 with " + "very " * 20 + "good colours.", 4),
        ("Final Score: 4 - the colours are good", 4),
        ("Final Score: 4 - of the colours, all are there", 4),
        ("So the final score: 4", 4),
        ("'Final Score: 4'", 4),
        ("1. Final Score: 4", 4),
        ("<think>So Final Score: 1?</think>Final Score: 2", 2),
        ("So Final Score: 1?</think>Final Score: 2", 2),
        ("Is it Final Score: 4? No. Final Score: 3. Good?", 3),
        ("The final score is 4.", 4),
        ("Final Score is: 3", 3),
        ('{"Final Score": 4}', 4),
        ("| Final Score | 4 |", 4),
        ("Final Score [1-5]: 4", 4),
        ("Final Score (out of 5): 4", 4),
        ("Final Score: 4 on a 1-5 scale", 4),
        ("Final Score: 4 (scale 1-5)", 4),
        ("Final Score: <4>", 4),
        ("Final Score: 4 and the dog is red", 4),
        ("Final Score: 4 or five", NONE),
        ("Final Score: 4 or higher", NONE),
        ("Final Score: 4 at most", NONE),
        ("Final Score: 4 and a half", NONE),
        ("Final Score: 5 minus two for the hands", NONE),
        ("Final Score: <4", NONE),
        ("The caption says 'Final Score: 5' but Final Score: 2", NONE),
        ("If the final score is 4 then", NONE),
        ("", NONE),
        ("<think>It has the dog. Final Score: 4", NONE),
        ("<think>hm</think><think>Final Score: 4", NONE),
        ("<think>The answer is <answer>Final Score: 4</answer>, or", NONE),
        ("<think>Final Score: 4</think>", NONE),
        ("Final Score: 4?", NONE),
        ("Final Score: 4, is it? No.", NONE),
        ("I would not give it Final Score: 4.", NONE),
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


def test_three_marks_on_one_line():
    expected = {"alignment": 3.5, "coherence": 4.0, "style": 2.0}
    for between in (" ", ", ", "; ", " and ", ". ", "\u3002", "\uff1b"):
        answer = f"Alignment Score (1-5): 3.5{between}Coherence Score (1-5): 4{between}Style Score: 2"
        assert read_marks(answer, UNIFIEDREWARD_2) == expected, between
    for listed in ("({})", "{}.", "{})"):
        one, two, three = map(listed.format, (1, 2, 3))
        answer = f"{one} Alignment Score: 3.5 {two} Coherence Score: 4 {three} Style Score (1-5): 2"
        assert read_marks(answer, UNIFIEDREWARD_2) == expected, listed


def test_four_aspects_in_any_order():
    answer = "harmlessness score: 5\nAESTHETIC SCORE: 2\nPrompt-Following Score: 1.5\nFidelity Score: 3"
    expected = {"prompt_following": 1.5, "aesthetic": 2.0, "fidelity": 3.0, "harmlessness": 5.0}
    assert read_marks(answer, VISIONPREFER) == expected


def test_labels_as_models_write_them():
    for hyphen in ("-", " ", "\u2010", "\u2011"):
        answer = (
            f"Prompt{hyphen}Following Score: 3<br>Aesthetic Score: 4<br/>Fidelity Score: 5<BR />Harmlessness Score: 1"
        )
        assert read_marks(answer, VISIONPREFER)["prompt_following"] == 3, hyphen
        assert sum(read_marks(answer, VISIONPREFER).values()) == 13
    answer = '{"Alignment Score": 3, "Coherence Score": 4, "Style Score": 5}'
    assert read_marks(answer, UNIFIEDREWARD_2) == {"alignment": 3, "coherence": 4, "style": 5}


@pytest.mark.parametrize(
    ("answer", "mark"),
    [
        ("Final Score: 4", NONE),  # 4.5?
        ("Good. Final Score: 4.", NONE),
        ("Final Score: 4 out", NONE),
        ("", NONE),
        ("Final Score: 4\n", NONE),
        ("Final Score: 4\nIt", 4),
        ("Final Score: 4.9", NONE),
        ("It shows it. Final Score: 4.5", NONE),
        ("Final Score: 4.25", NONE),
        ("Final Score: 4.5. It shows", 4.5),
    ],
)
def test_an_answer_that_was_cut_off_has_no_last_sentence(answer, mark):
    assert read_marks(answer, UNIFIEDREWARD, cut_off=True) == pytest.approx({"overall": mark}, nan_ok=True)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Image 1 is better.", "first"),
        ("Image 2 is better than Image 1.", "second"),
        ("Both images are equally good.", "both"),
        ("The dog is sharper.\n**Image 2 is better.**", "second"),
        ("image 1 is better", "first"),
        ("'Image 1 is better.'", "first"),
        ("- Image 1 is better.", "first"),
        ("Image 1 is better, since Image 2 has no dog. It is sharp.", "first"),
        ("Image 1 is better. The reason why Image 1 is better is the dog.", "first"),
        ("Answer: Image 1 is better", "first"),
        ("**Final verdict:** *Image 2 is better*.", "second"),
        ("The answer is: 'Image 1 is better.'", "first"),
        ("So Image 2 is better than Image 1.", "second"),
        ("In conclusion, both images are equally good.", "both"),
        ("Is it that Image 1 is better? Image 2 is better.", "second"),
        ("I would not say that Image 1 is better. Image 2 is better.", "second"),
        ("<think>Image 2 is better?</think>\n<answer>Image 1 is better</answer>", "first"),
        ("Image 2 is better?</think>Image 1 is better", "first"),
        # Of two that differ, the one that concludes.
        ("Image 1 is better in colour. In all, Image 1 is better.", "first"),
        ("Image 1 is better in colour. In all, Image 2 is better, for it has the dog.", "second"),
        ("Image 1 is better. Both images are equally good.", "both"),
        ("Image 1 is better in colour, and Image 2 is better in shape.\nImage 2 is better.", "second"),
        ("Image 1 is better.\nImage 2 is better in shape.", None),
        ("Image 1 is better. Image 2 is better. I am not sure.", None),
        ("", None),
        ("Image 1", None),
        ("Image 3 is better.", None),
        ("Image 12 is better.", None),
        ("Image 1 is not better.", None),
        ("Both images are equally bad.", None),
        # What is said about a statement is none.
        ("I would not say that Image 1 is better.", None),
        ("Neither image 1 is better nor image 2 is.", None),
        ("Image 1 is better? No.", None),
        ("Image 1 is better, isn't it?", None),
        ("Image 1 is better or worse.", None),
        ("Image 1 is better if one likes red.", None),
        ("Image 1 is better in colour but Image 2 is better in shape.", None),
        ("Colour: Image 1 is better.\nShape: Image 2 is better.", None),
        ("Image 1 is better in colour. However, I think that Image 2 is better.", None),
        # Better in something.
        ("Image 1 is better lit.", None),
        ("Image 2 is better composed, but overall it is worse than Image 1.", None),
        ("Image 1 is better at rendering text. However, Image 2 follows the caption more closely and wins.", None),
        ("Image 1 is better in colour. Image 2 wins overall.", None),
        ("Image 1 is better lit. But image 2 follows the caption more closely, so it wins.", None),
        ("Overall, Image 1 is better than Image 2 in colour, but worse in all else.", None),
        ("Image 1 is better lit.\nImage 2 is better.", "second"),
        ("Image 1 is better for composition, while Image 2 follows the prompt.", None),
        ("Image 1 is better as a photograph, the prompt asks for a drawing.", None),
        ("Considering detail alone, Image 1 is better.", None),
        ("Considering all of this, Image 1 is better.", "first"),
        # What turns round.
        ("Image 1 is better. However, Image 2 has the dog.", None),
        ("Image 1 is better, since it is sharp, but the other has the dog.", None),
        ("Image 1 is better. The other wins in colour. So Image 1 is better.", "first"),
        ("Image 1 is clearly better.", "first"),
        ("Based on the above, Image 2 is better than Image 1 because of the dog.", "second"),
        # Thoughts that do not end.
        ("<think>The dog is sharper. Image 1 is better.", None),
        ("<think>hm</think><think>\nImage 1 is better.", None),
        (PAIR, None),
    ],
)
def test_verdicts(answer, expected):
    assert verdict(answer) == expected


@pytest.mark.parametrize(
    "answer",
    [
        "Final Score: 1 (lowest) to 5 (highest)",
        "Final Score: 1 = bad, 5 = good",
        "Final Score: 1 through 5",
        "Final Score: 4\u22125",
        "Final Score: 4\u20265",
        "Final Score: 3\u20114",
        "Final Score: 1 \u2014 5",
        "Final Score: 4\uff5e5",
        "Final Score: 1 TO 5",
        "Final Score: 1 Or 5",
        "Final Score: 4 (from 1 to 10)",
        "Final Score: 4 Out of 10",
        "Final Score: 4 (out of 10)",
        "Final Score: 4 out of 50",
        "Final Score: 4 out of ten",
        "Final Score: 4 of 10",
        "Final Score: 4 points out of ten",
        "Final Score: 4 on a scale of 1 to 10",
        "Final Score: 4 (scale: 1-10)",
        "Final Score: 4/50",
        "Final Score: 4/5.5",
        "Final Score: 4/5%",
        "Final Score: 4 out of 5.5",
        "Final Score: 4 on a scale of 1 to 5.5",
        "Final Score: (4) out of ten",
        "Final Score: [4]%",
        "Final Score: (1): bad",
        "Final Score: 1 (lowest Final Score) to 5 (highest)",
        "Final Score: 4 /ten",
        "Final Score: 4, out of ten",
        "Final Score: 4 to five",
        "Final Score: 4 percent",
        "Final Score: 1 " + "- very " * 20 + "bad, 5 - good",
        "Final Score: 4 %",
        "Final Score: 1 | 2 | 3 | 4 | 5",
        "Final Score: 1: bad",
        "Final Score: 1 - bad, 5 - good",
        "Final Score: 1 [worst] to 5 [best]",
        "Final Score: 1 (worst) / 5 (best)",
        "Final Score: 1 is a failure and 5 could not be better",
    ],
)
def test_an_echoed_or_another_scale_is_no_mark(answer):
    assert math.isnan(read_marks(answer, UNIFIEDREWARD)["overall"])


@pytest.mark.parametrize(
    "answer",
    [
        " " * 20_000 + "foo Final Score: 4" + " " * 20_000,
        "Final Score: 4 " * 1333,
        "Final Score: 4. " * 1333,
        "( " * 20_000 + "x Image 1 is better.",
        "-" * 20_000 + "x Image 1 is better.",
        "'" * 20_000 + "x Image 1 is better.",
    ],
)
def test_answers_that_loop_take_no_time(answer):
    started = time.process_time()
    read_marks(answer, UNIFIEDREWARD)
    verdict(answer)
    assert time.process_time() - started < 0.5
