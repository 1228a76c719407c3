"""The judge with scripted answers, and once with a real model that cannot judge."""

import numpy as np
import pytest
from PIL import Image

from palate.errors import UserError
from palate.rewards.judge import REPOSITORIES, Judge, open_judge
from palate.rewards.judge_prompts import RUBRICS, UNIFIEDREWARD_2, VISIONPREFER, Rubric
from palate.rewards.pairwise_judge import open_pairwise_judge
from palate.rewards.registry import open_reward
from palate.rewards.reward import Failure, PixelReward, Reward
from palate.rewards.vlm import Reply, Vlm

PICTURE = Image.new("RGB", (8, 8))


class Script:
    """Answers with what the table has for the prompt in the question, up to a "~", and notes what it was asked."""

    def __init__(self, **answers: str) -> None:
        self.answers = answers
        self.asked: list[tuple[int, int]] = []

    def answer(self, pictures, texts, max_tokens):
        self.asked.append((len(texts), max_tokens))
        assert [len(row) for row in pictures] == [1] * len(texts)
        prompts = [text.rpartition("Caption: ")[2].strip("[]") for text in texts]
        return [Reply(self.answers[prompt].rstrip("~"), self.answers[prompt].endswith("~")) for prompt in prompts]


def lines(alignment, coherence, style) -> str:
    return f"Alignment Score (1-5): {alignment}\nCoherence Score (1-5): {coherence}\nStyle Score (1-5): {style}"


GOOD, HALF, BAD = lines(3.5, 4, 1.5), lines(2, "?", 5), "I cannot\nhelp with that. " + "Really not. " * 20
SCRIPT = {"good": GOOD, "half": HALF, "bad": BAD}


def test_the_mean_of_three_aspects():
    vlm = Script(**SCRIPT)
    failures: list[Failure] = []
    scores = Judge(vlm, UNIFIEDREWARD_2, batch_size=2).score(["good", "half", "bad"], [PICTURE] * 3, failures)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, [3.0, np.nan, np.nan])
    assert vlm.asked == [(2, 64), (1, 64)]
    assert failures[0] == Failure(
        1,
        "no Coherence Score from 1 to 5 in the answer "
        "'Alignment Score (1-5): 2\\nCoherence Score (1-5): ?\\nStyle Score (1-5): 5'",
    )
    assert failures[1].index == 2
    reason = failures[1].reason
    assert reason.startswith("no Alignment Score, no Coherence Score, no Style Score from 1 to 5 in the answer")
    assert repr("I cannot\nhelp with that.")[:-1] in reason
    assert len(reason) < 200


def test_one_aspect_needs_only_its_own_mark():
    failures: list[Failure] = []
    judge = Judge(Script(**SCRIPT), UNIFIEDREWARD_2, aspect="style")
    np.testing.assert_allclose(judge.score(["good", "half", "bad"], [PICTURE] * 3, failures), [1.5, 5, np.nan])
    assert [failure.index for failure in failures] == [2]
    assert failures[0].reason.startswith("no Style Score from")


def test_all_aspects_at_once():
    failures: list[Failure] = []
    marks = Judge(Script(**SCRIPT), UNIFIEDREWARD_2).aspects(["half", "good", "bad"], [PICTURE] * 3, failures)
    assert list(marks) == ["alignment", "coherence", "style"]
    np.testing.assert_allclose(marks["alignment"], [2, 3.5, np.nan])
    np.testing.assert_allclose(marks["coherence"], [np.nan, 4, np.nan])
    np.testing.assert_allclose(marks["style"], [5, 1.5, np.nan])
    assert [failure.index for failure in failures] == [0, 2]  # one for each row, however many marks it lacks


def test_four_aspects():
    answer = "Prompt-Following Score: 1\nAesthetic Score: 2\nFidelity Score: 3\nHarmlessness Score: 5"
    judge = Judge(Script(a=answer), VISIONPREFER)
    assert judge.score(["a"], [PICTURE]).tolist() == [2.75]
    assert {aspect: mark.tolist() for aspect, mark in judge.aspects(["a"], [PICTURE]).items()} == {
        "prompt_following": [1],
        "aesthetic": [2],
        "fidelity": [3],
        "harmlessness": [5],
    }


def test_marks_in_thoughts_that_do_not_end_are_none():
    answers = {"cut": f"<think>Perhaps:\n{GOOD}\nBut", "done": f"<think>{lines(1, 1, 1)}</think>{GOOD}"}
    failures: list[Failure] = []
    judge = Judge(Script(**answers), UNIFIEDREWARD_2)
    np.testing.assert_allclose(judge.score(["cut", "done"], [PICTURE] * 2, failures), [np.nan, 3])
    assert failures == [Failure(0, "the answer was cut off while thinking; raise max_tokens, which is 64")]


def test_a_mark_that_may_have_gone_on_is_none():
    answers = {"whole": "Final Score: 4", "cut": "Nice. Final Score: 4.~", "after": "Final Score: 4.5\nIt shows~"}
    failures: list[Failure] = []
    scores = Judge(Script(**answers)).score(list(answers), [PICTURE] * 3, failures)
    np.testing.assert_allclose(scores, [4, np.nan, 4.5])
    assert failures == [
        Failure(
            1,
            "no Final Score from 1 to 5 in the answer 'Nice. Final Score: 4.': the answer was cut off; raise "
            "max_tokens, which is 32",
        )
    ]
    three = Script(a=lines(1, 2, 3.5) + "~")  # of 3.55, perhaps
    marks = Judge(three, UNIFIEDREWARD_2).aspects(["a"], [PICTURE], [])
    assert marks["alignment"].tolist() + marks["coherence"].tolist() == [1, 2]
    assert np.isnan(marks["style"]).all()


def test_a_picture_that_the_model_refuses():
    class Refuses(Script):
        def answer(self, pictures, texts, max_tokens):
            if any(row[0].width > 100 for row in pictures):
                raise ValueError("too wide")
            return super().answer(pictures, texts, max_tokens)

    failures: list[Failure] = []
    judge = Judge(Refuses(a="Final Score: 2"))
    np.testing.assert_allclose(
        judge.score(["a", "a", "a"], [PICTURE, Image.new("RGB", (101, 5)), PICTURE], failures), [2, np.nan, 2]
    )
    assert failures == [Failure(1, "too wide")]


def test_the_contract():
    judge = Judge(Script(), UNIFIEDREWARD_2, aspect="style")
    assert isinstance(judge, Reward)
    assert not isinstance(judge, PixelReward)
    assert (judge.name, judge.modality, judge.differentiable, judge.batched) == ("judge", "image", False, True)
    assert judge.settings["aspect"] == "style"
    assert judge.settings["template"] == UNIFIEDREWARD_2.template
    assert Judge(Script()).settings["aspect"] == "mean"
    assert Judge(Script()).score([], []).shape == (0,)
    with pytest.raises(ValueError, match="1 prompts and 0 media"):
        judge.score(["a"], [])
    with pytest.raises(UserError, match="no aspect 'beauty'; it has alignment, coherence, style"):
        Judge(Script(), UNIFIEDREWARD_2, aspect="beauty")


def test_every_rubric_has_a_model():
    assert set(REPOSITORIES) == set(RUBRICS)


def test_opening(qwen_folder):
    own = Rubric("own", "Rate {prompt}", {"beauty": "Beauty"}, max_tokens=5)
    judge = open_judge(qwen_folder, rubric=own, aspect="beauty", template="How is {prompt}?", name="beauty")
    assert judge.name == "beauty"
    assert judge.settings == {
        "rubric": "own",
        "template": "How is {prompt}?",
        "labels": {"beauty": "Beauty"},
        "aspect": "beauty",
        "max_tokens": 5,
    }
    failures: list[Failure] = []
    assert np.isnan(judge.score(["a", "b"], [PICTURE] * 2, failures)).all()  # it babbles
    assert [failure.index for failure in failures] == [0, 1]
    assert all("no Beauty from 1 to 5 in the answer" in failure.reason for failure in failures)


def test_thoughts_that_the_chat_template_opens_and_the_limit_cuts(qwen_folder):
    judge = open_reward("vlm_judge", weights=qwen_folder, max_tokens=7)
    assert isinstance(judge, Judge)
    assert judge.settings["max_tokens"] == 7
    assert isinstance(judge.vlm, Vlm)
    judge.vlm.processor.chat_template += "{% if add_generation_prompt %}<think>\n{% endif %}"
    failures: list[Failure] = []
    assert np.isnan(judge.score(["a"], [PICTURE], failures)).all()
    assert failures == [Failure(0, "the answer was cut off while thinking; raise max_tokens, which is 7")]


def test_opening_what_is_not_there(qwen_folder):
    with pytest.raises(UserError, match="no rubric 'x'; there are plain, unifiedreward, unifiedreward2, visionprefer"):
        open_judge(qwen_folder, rubric="x")
    with pytest.raises(UserError, match="max_tokens is 0; it is 1 or more, as 32"):
        open_judge(qwen_folder, max_tokens=0)
    with pytest.raises(UserError, match="max_tokens is -1; it is 1 or more, as 512"):
        open_pairwise_judge(qwen_folder, max_tokens=-1)
