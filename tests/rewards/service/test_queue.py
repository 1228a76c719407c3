"""One thread, many callers: who is batched with whom, and who pays for whose faults."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass, field
from threading import Event

import pytest
import torch
from PIL import Image

from palate.rewards.function import from_function
from palate.rewards.scorer import scorer_of
from palate.rewards.service.queue import BatchQueue, ScorerFailedError, StoppedError


@dataclass
class Mean:
    """The mean of the pixels; remembers its batches and the threads that ran it, and waits for `go`."""

    name: str = "mean"
    modality: str = "image"
    differentiable: bool = True
    room: int = 1000
    batches: list[int] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)
    go: Event = field(default_factory=Event)

    def prepare(self, picture):
        raise NotImplementedError

    def score_pixels(self, prompts, pixels):
        assert self.go.wait(10)
        assert not torch.is_grad_enabled()
        self.threads.add(threading.get_ident())
        self.batches.append(len(prompts))
        if len(prompts) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if "poison" in prompts:
            raise RuntimeError("index out of range")
        return pixels.flatten(1).mean(dim=1)

    def score(self, prompts, media, failures=None):
        raise NotImplementedError


@pytest.fixture
def queue():
    queue = BatchQueue(batch_size=4)
    yield queue
    queue.close()


def ask(queue, scorer, values, prompts=None, gone=None, side=2):
    prompts = prompts or [""] * len(values)
    gone = gone or Event()
    return [
        queue.submit(scorer, prompt, torch.full((3, side, side), float(value)), gone)
        for value, prompt in zip(values, prompts, strict=True)
    ]


def test_what_waits_is_taken_together_up_to_the_batch_size(queue):
    reward = Mean()
    marks = ask(queue, scorer_of(reward), [0])
    time.sleep(0.1)  # more than the patience: the first goes alone and holds the thread
    marks += ask(queue, scorer_of(reward), range(1, 10))
    reward.go.set()
    assert [mark.result(10) for mark in marks] == list(range(10))
    assert reward.batches == [1, 4, 4, 1]
    assert len(reward.threads) == 1
    assert threading.get_ident() not in reward.threads


def test_a_lone_pair_waits_no_longer_than_the_patience(queue):
    reward = Mean()
    reward.go.set()
    start = time.monotonic()
    assert ask(queue, scorer_of(reward), [3])[0].result(10) == 3
    assert time.monotonic() - start < 2


def test_callers_in_several_threads_each_get_their_own(queue):
    reward = Mean()
    reward.go.set()
    scorer = scorer_of(reward)
    results = {}

    def call(number):
        values = range(10 * number, 10 * number + 10)
        results[number] = [mark.result(10) for mark in ask(queue, scorer, values)] == list(values)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(range(8), True)
    assert sum(reward.batches) == 80
    assert max(reward.batches) == 4
    assert len(reward.threads) == 1


def test_a_pair_that_the_network_chokes_on_costs_its_company_nothing(queue, caplog):
    reward = Mean()
    marks = ask(queue, scorer_of(reward), range(4), ["a", "b", "poison", "c"])
    reward.go.set()
    with pytest.raises(ScorerFailedError, match=r"the scorer mean failed \(RuntimeError: index out of range"):
        marks.pop(2).result(10)
    assert [mark.result(10) for mark in marks] == [0, 1, 3]
    assert "mean failed on a batch of 1" in caplog.text
    assert queue.is_alive


def test_a_batch_that_memory_does_not_hold_is_halved(queue):
    reward = Mean(room=1)
    marks = ask(queue, scorer_of(reward), range(4))
    reward.go.set()
    assert [mark.result(10) for mark in marks] == [0, 1, 2, 3]
    assert reward.batches == [4, 2, 1, 1, 2, 1, 1]


def test_shapes_and_scorers_are_kept_apart(queue):
    one, other = Mean(), Mean(name="other")
    marks = [
        *ask(queue, scorer_of(one), [1, 2]),
        *ask(queue, scorer_of(other), [3]),
        *ask(queue, scorer_of(one), [4], side=5),
    ]
    one.go.set()
    other.go.set()
    assert [mark.result(10) for mark in marks] == [1, 2, 3, 4]
    assert (one.batches, other.batches) == ([2, 1], [1])


def test_what_nobody_waits_for_is_left_out(queue):
    reward = Mean()
    held = ask(queue, scorer_of(reward), [0])
    time.sleep(0.1)
    gone = Event()
    left = ask(queue, scorer_of(reward), [1, 2], gone=gone)
    others = ask(queue, scorer_of(reward), [3])
    gone.set()
    reward.go.set()
    assert [mark.result(10) for mark in held + others] == [0, 3]
    assert [mark.result(10) for mark in left] == ["nobody waits for it"] * 2
    assert reward.batches == [1, 1]


def test_nan_infinity_and_a_rewards_own_reasons(queue):
    reward = Mean()
    reward.go.set()
    marks = ask(queue, scorer_of(reward), [float("nan"), float("inf"), 1])
    assert [mark.result(10) for mark in marks] == ["the reward returned nan", "the reward returned inf", 1]

    def width(prompt, picture):
        if not prompt:
            raise ValueError("an empty prompt")
        return picture.width

    scorer = scorer_of(from_function("width", width))
    pictures = [queue.submit(scorer, prompt, Image.new("L", (7, 1)), Event()) for prompt in ("a", "", "b")]
    assert [mark.result(10) for mark in pictures] == [7, "an empty prompt", 7]


def test_submitting_waits_where_there_is_no_room():
    queue = BatchQueue(batch_size=2, room=2)
    reward = Mean()
    done = []
    caller = threading.Thread(target=lambda: done.extend(ask(queue, scorer_of(reward), range(9))))
    caller.start()
    time.sleep(0.2)
    assert not done  # two are in the network's hands, two wait, and the fifth has no room
    reward.go.set()
    caller.join(10)
    assert [mark.result(10) for mark in done] == list(range(9))
    queue.close()


def test_closing_finishes_the_batch_at_hand_and_tells_the_others():
    queue = BatchQueue(batch_size=2, room=2)
    reward = Mean()
    first = ask(queue, scorer_of(reward), [0, 1])
    time.sleep(0.1)
    waiting = ask(queue, scorer_of(reward), [2])
    closing = threading.Thread(target=queue.close)
    closing.start()
    with pytest.raises(StoppedError):
        waiting[0].result(10)
    reward.go.set()
    closing.join(10)
    assert [mark.result(10) for mark in first] == [0, 1]
    assert not queue.is_alive
    with pytest.raises(StoppedError):
        ask(queue, scorer_of(reward), [3])[0].result(10)


@dataclass
class Miscounts(Mean):
    """Always gives `count` numbers, and an error for `poison`."""

    count: int = 1

    def score_pixels(self, prompts, pixels):
        values = super().score_pixels(prompts, pixels)
        return values.repeat(self.count)[: self.count]


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_a_scorer_that_miscounts_gives_nobody_a_number(queue, count):
    """One number for three pictures is right for each of them alone, so that halving would make three scores of it."""
    reward = Miscounts(count=count)
    marks = ask(queue, scorer_of(reward), [7, 8, 9])
    reward.go.set()
    for mark in marks:
        with pytest.raises(ScorerFailedError) as told:
            mark.result(10)
        shape = rf"\(ValueError: 3 pictures, and an answer of shape \[{count}\]\)$"
        assert re.search(f"^the scorer mean failed {shape}", str(told.value))
    assert reward.batches == [3, 1, 1, 1]
    assert queue.is_alive
