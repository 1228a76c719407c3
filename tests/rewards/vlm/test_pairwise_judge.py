"""The pairwise judge with answerers that prefer by rule; a picture is known by its grey level."""

import numpy as np
import pytest
from PIL import Image

from palate.rewards.judge_prompts import PAIR
from palate.rewards.pairwise_judge import PairwiseJudge, open_pairwise_judge, win_rates
from palate.rewards.reward import Failure
from palate.rewards.vlm import Reply

SAYS = {1: "Image 1 is better.", 2: "So Image 2 is better than Image 1.", 0: "Both images are equally good."}


def grey(level: int) -> Image.Image:
    return Image.new("RGB", (4, 4), (level,) * 3)


class Rule:
    """Answers by `says(level of image 1, level of image 2, question)`."""

    def __init__(self, says) -> None:
        self.says = says
        self.sizes: list[int] = []

    def answer(self, pictures, texts, max_tokens):
        self.sizes.append(len(texts))
        seen = [[picture.getpixel((0, 0))[0] for picture in row] for row in pictures]
        said = [self.says(*row, text) for row, text in zip(seen, texts, strict=True)]
        return [Reply(text.rstrip("~"), text.endswith("~")) for text in said]


def brighter(one, two, _):
    return SAYS[1 if one > two else 2 if two > one else 0]


def prefer(says, first=7, second=3):
    return PairwiseJudge(Rule(says)).prefer(["a"], [grey(first)], [grey(second)]).tolist()


def test_all_values():
    assert prefer(brighter) == [1]
    assert prefer(brighter, 3, 7) == [0]
    assert prefer(brighter, 5, 5) == [0.5]
    assert prefer(lambda *_: SAYS[1]) == [0.5]  # who always takes the one on the left prefers none
    assert prefer(lambda *_: SAYS[2]) == [0.5]
    assert prefer(lambda one, two, _: SAYS[1] if one > two else SAYS[0]) == [0.75]
    assert prefer(lambda one, two, _: SAYS[1] if one > two else SAYS[0], 3, 7) == [0.25]


def test_many_pairs_in_batches():
    vlm = Rule(brighter)
    judge = PairwiseJudge(vlm, batch_size=4)
    first, second = [grey(level) for level in (1, 9, 5)], [grey(level) for level in (4, 4, 5)]
    preferred = judge.prefer(["a", "b", "c"], first, second)
    assert preferred.dtype == np.float32
    assert preferred.tolist() == [0, 1, 0.5]
    assert vlm.sizes == [4, 2]


def test_the_prompt_is_asked_about():
    asked = []
    PairwiseJudge(Rule(lambda one, two, text: asked.append((one, two, text)) or SAYS[0])).prefer(
        ["a {dog}"], [grey(1)], [grey(2)]
    )
    question = PAIR.replace("{prompt}", "a {dog}")
    assert asked == [(1, 2, question), (2, 1, question)]


def test_an_answer_without_a_verdict_is_nan_once():
    def says(one, two, _):
        return "Hm." if 9 in (one, two) else "No idea" if (one, two) == (3, 4) else brighter(one, two, _)

    failures: list[Failure] = []
    first, second = [grey(level) for level in (2, 9, 4)], [grey(level) for level in (1, 1, 3)]
    preferred = PairwiseJudge(Rule(says)).prefer(["a"] * 3, first, second, failures)
    np.testing.assert_allclose(preferred, [1, np.nan, np.nan])
    assert failures == [
        Failure(1, "no verdict in the answer 'Hm.'"),
        Failure(2, "no verdict in the answer 'No idea'"),  # only the second order fails
    ]


def test_a_verdict_in_thoughts_that_do_not_end_is_none():
    def says(one, two, _):
        return "<think>Image 1 is better. But" if (one, two) == (3, 4) else brighter(one, two, _)

    failures: list[Failure] = []
    preferred = PairwiseJudge(Rule(says), max_tokens=9).prefer(
        ["a"] * 2, [grey(4), grey(2)], [grey(3), grey(1)], failures
    )
    np.testing.assert_allclose(preferred, [np.nan, 1])
    assert failures == [Failure(0, "the answer was cut off while thinking; raise max_tokens, which is 9")]


def test_a_verdict_before_the_limit_is_none():
    """The question asks for it at the end: what comes may be another."""

    def says(one, two, _):
        return "Image 1 is better. As for the caption, the second shows both~"

    failures: list[Failure] = []
    assert np.isnan(PairwiseJudge(Rule(says), max_tokens=9).prefer(["a"], [grey(4)], [grey(3)], failures)).all()
    assert failures == [Failure(0, "the answer was cut off; raise max_tokens, which is 9")]


def test_one_prompt_for_each_pair():
    judge = PairwiseJudge(Rule(brighter))
    with pytest.raises(ValueError, match="1 prompts and 2 media"):
        judge.prefer(["a"], [grey(1)] * 2, [grey(1)])
    with pytest.raises(ValueError, match="1 prompts and 0 media"):
        judge.prefer(["a"], [grey(1)], [])
    assert judge.prefer([], [], []).shape == (0,)


def test_win_rates_by_hand():
    # 0 beats 1, ties with 2, is not judged against 3; 1 loses a quarter against 2.
    rates = win_rates([(0, 1), (0, 2), (0, 3), (2, 1)], [1, 0.5, np.nan, 0.75], 4)
    assert rates.dtype == np.float32
    np.testing.assert_allclose(rates, [0.75, 0.125, 0.625, np.nan])
    assert win_rates([], [], 2).shape == (2,)
    with pytest.raises(ValueError, match="1 pairs and 2 probabilities"):
        win_rates([(0, 1)], [1, 0], 2)


def test_ranking_candidates():
    judge = PairwiseJudge(Rule(brighter))
    np.testing.assert_allclose(judge.rank("a", [grey(level) for level in (5, 9, 5, 1)]), [1.5 / 3, 1, 1.5 / 3, 0])
    assert np.isnan(judge.rank("a", [grey(5)])).all()  # nothing to be compared with


def test_opening(qwen_folder):
    judge = open_pairwise_judge(qwen_folder, template="Which is {prompt}?", max_tokens=4)
    assert judge.settings == {"template": "Which is {prompt}?", "max_tokens": 4}
    failures: list[Failure] = []
    assert np.isnan(judge.prefer(["a"], [grey(1)], [grey(2)], failures)).all()  # it babbles
    assert failures == [Failure(0, "the answer was cut off; raise max_tokens, which is 4")]
