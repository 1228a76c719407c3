"""The shared path from pictures to scores, on a judge that returns a picture's first red level."""

import re
import threading
import time
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from PIL import Image

from palate.errors import PalateError
from palate.rewards.reward import Failure, score_prepared


@dataclass
class RedLevel:
    name: str = "red"
    modality: str = "image"
    differentiable: bool = True
    batches: list[list[str]] = field(default_factory=list)
    inside: dict[int, int] = field(default_factory=dict)

    def prepare(self, picture):
        self.inside[id(picture)] = self.inside.get(id(picture), 0) + 1
        assert self.inside[id(picture)] == 1, "two threads prepare one picture"
        time.sleep(0.002)
        self.inside[id(picture)] -= 1
        red = picture.getpixel((0, 0))[0]
        if red == 255:
            raise OSError("image file is truncated")
        if red == 254:
            raise ValueError
        return torch.full((3, 1, 1), float(red))

    def score_pixels(self, prompts, pixels):
        assert not torch.is_grad_enabled()
        self.batches.append(list(prompts))
        values = pixels[:, 0, 0, 0]
        return torch.where(values == 253, torch.nan, values)

    def score(self, prompts, media, failures=None):
        return score_prepared(self, prompts, media, failures, batch_size=3)


def pictures(*reds: int) -> list[Image.Image]:
    return [Image.new("RGB", (1, 1), (red, 0, 0)) for red in reds]


def test_values_come_back_in_order_and_failures_with_their_reasons():
    failures: list[Failure] = []
    reward = RedLevel()
    prompts = ["b", "a", "b", "a", "c", "a", "b"]
    scores = reward.score(prompts, pictures(1, 255, 3, 4, 253, 254, 7), failures)
    np.testing.assert_array_equal(scores, np.float32([1, np.nan, 3, 4, np.nan, np.nan, 7]))
    assert failures == [
        Failure(1, "image file is truncated"),
        Failure(4, "the reward returned NaN"),
        Failure(5, "ValueError"),
    ]
    assert reward.batches == [["b", "b", "b"], ["a", "c"]]  # prompts together, what failed left out


def test_one_picture_for_many_prompts_is_decoded_by_one_thread_at_a_time():
    picture = pictures(9)[0]
    reward = RedLevel()
    assert reward.score(list("abcdefgh"), [picture] * 8).tolist() == [9.0] * 8
    assert threading.active_count() < 20


def test_where_all_fail_nothing_is_scored():
    reward, failures = RedLevel(), []
    assert np.isnan(reward.score(["a", "b"], pictures(255, 255), failures)).all()
    assert (reward.batches, len(failures)) == ([], 2)


def test_a_programming_error_passes_through():
    with pytest.raises(AttributeError):
        RedLevel().score(["a"], [None])  # type: ignore[list-item]


@pytest.mark.parametrize("shape", [(), (1,), (2,), (3, 1)])
def test_an_answer_of_another_shape_is_no_score(shape):
    """NumPy would give one number to all three pictures."""

    class Miscounts(RedLevel):
        def score_pixels(self, prompts, pixels):
            return torch.ones(shape)

    told = rf"^the scorer red failed \(3 pictures, and an answer of shape {re.escape(str(list(shape)))}\)$"
    with pytest.raises(PalateError, match=told):
        Miscounts().score(["a"] * 3, pictures(1, 2, 3))
