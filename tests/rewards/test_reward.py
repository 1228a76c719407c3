import logging

import numpy as np
import pytest
from PIL import Image

from palate.rewards.reward import Failure, Reward, score_each
from palate.rewards.shapes_oracle import ShapesOracle

PICTURES = [Image.new("RGB", (2, 2))] * 3


def one_or_fail(prompt: str, picture: Image.Image) -> float:
    if prompt == "unreadable":
        raise OSError("image file is truncated")
    return {"good": 0.25, "undefined": float("nan")}[prompt]


def test_a_failed_score_is_nan_with_its_reason_and_the_others_stand():
    failures: list[Failure] = []
    scores = score_each(one_or_fail, ["good", "unreadable", "good"], PICTURES, failures)
    assert scores.dtype == np.float32
    assert scores[[0, 2]].tolist() == [0.25, 0.25]
    assert np.isnan(scores[1])
    assert failures == [Failure(1, "image file is truncated")]


def test_a_nan_that_a_reward_returns_is_a_failure_too():
    failures: list[Failure] = []
    assert np.isnan(score_each(one_or_fail, ["undefined"], PICTURES[:1], failures)).all()
    assert failures == [Failure(0, "the reward returned NaN")]


def test_without_a_list_the_reason_is_logged(caplog):
    with caplog.at_level(logging.WARNING, logger="palate.rewards.reward"):
        score_each(one_or_fail, ["unreadable"], PICTURES[:1])
    assert caplog.messages == ["item 0 has no score: image file is truncated"]


def test_a_programming_error_passes_through():
    with pytest.raises(KeyError):
        score_each(one_or_fail, ["unknown"], PICTURES[:1])


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="got 2 prompts and 3 media; expected one prompt for each"):
        score_each(one_or_fail, ["good"] * 2, PICTURES)


def test_nothing_gives_nothing():
    assert score_each(one_or_fail, [], []).shape == (0,)


def test_the_oracle_keeps_the_contract():
    assert isinstance(ShapesOracle(), Reward)
    assert not isinstance(object(), Reward)
