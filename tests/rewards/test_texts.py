"""Prompts are encoded once, in a company that does not depend on what is asked for when."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from palate.rewards import texts
from palate.rewards.clip_tower import ClipTower
from palate.rewards.scorer import scorer_of
from palate.rewards.scoring.batch import score_images
from palate.rewards.texts import TextMemory, TextPlan, remembered_texts, text_features

PROMPTS = ["a", "b", "c", "d", "e"]


class Encoder:
    """Features that tell a prompt and with whom it was encoded."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def __call__(self, prompts: list[str]) -> torch.Tensor:
        self.calls.append(list(prompts))
        return torch.tensor([[float(ord(prompt)), float(sum(map(ord, prompts)))] for prompt in prompts])


def planned() -> TextPlan:
    plan = TextPlan()
    for prompt, group in zip("abacbd", [0, 0, 0, 1, 1, 1], strict=True):
        plan.add(prompt, group)
    return plan


def test_a_prompt_stays_in_the_group_where_it_came_first():
    assert planned().groups == {0: ["a", "b"], 1: ["c", "d"]}


def test_each_is_encoded_once_and_with_its_group():
    encode, memory = Encoder(), TextMemory(planned())
    with remembered_texts(memory):
        first = text_features("tower", ["d", "a", "d"], encode)
        second = text_features("tower", ["b", "c"], encode)
    assert encode.calls == [["c", "d"], ["a", "b"]]
    ab, cd = float(ord("a") + ord("b")), float(ord("c") + ord("d"))
    assert first.tolist() == [[100, cd], [97, ab], [100, cd]]
    assert second.tolist() == [[98, ab], [99, cd]]
    text_features("tower", ["b", "b", "a"], encode)  # no memory, no company but its own
    assert encode.calls[2:] == [["b", "a"]]


def test_others_features_are_others(monkeypatch):
    monkeypatch.setattr(texts, "MOST", 3)
    memory = TextMemory(planned())
    with remembered_texts(memory):
        for owner, factor in (("tower", 1), ("other", -1)):
            encode = Encoder()
            found = text_features(owner, ["e", "a", "d"], lambda prompts: factor * encode(prompts))  # noqa: B023
            assert found[:, 0].tolist() == [factor * 101, factor * 97, factor * 100]
            assert encode.calls == [["a", "b"], ["e", "d"]]  # d is one too many for the plan
    assert memory.plan.groups == {0: ["a", "b"], 1: ["c"]}


class Prompts:
    end = 9

    def read(self, prompts):
        return [ord(prompt) for prompt in prompts]


class Tower(ClipTower):
    """Features whose last bits tell the company."""

    def __init__(self) -> None:
        object.__setattr__(self, "prompts", Prompts())
        object.__setattr__(self, "read", [])

    def text_ids(self, ids):
        self.read.extend(map(chr, ids))
        return torch.tensor([[float(number) + sum(ids) / 1e4] for number in ids])


class Reward:
    name, modality, differentiable = "reward", "image", False

    def __init__(self) -> None:
        self.tower = Tower()

    def prepare(self, picture):
        return torch.full((3, 1, 1), float(picture.width))

    def score_pixels(self, prompts, pixels):
        return self.tower.texts(prompts)[:, 0] + pixels[:, 0, 0, 0]

    def score(self, prompts, media, failures=None):
        raise AssertionError


@pytest.fixture
def manifest(tmp_path) -> Path:
    """The same five prompts again and again, as a comparison of models has them."""
    rows = []
    for number in range(30):
        Image.new("L", (1 + number, 2)).save(tmp_path / f"{number}.png")
        rows.append(json.dumps({"image": f"{number}.png", "prompt": PROMPTS[number % 5]}))
    (tmp_path / "list.jsonl").write_text("\n".join(rows))
    return tmp_path / "list.jsonl"


def score(manifest: Path, out: Path, shard: tuple[int, int] = (0, 1)) -> tuple[list[str], bytes | None]:
    reward = Reward()
    done = score_images(manifest, [scorer_of(reward, version="1")], out, batch_size=4, shard=shard, workers=1)
    return reward.tower.read, done.tables and done.tables[1].read_bytes()


def test_a_run_encodes_each_distinct_prompt_once(manifest, tmp_path):
    read, _ = score(manifest, tmp_path / "out")
    assert read == PROMPTS
    scores = pq.read_table(tmp_path / "out" / "scores.parquet")["reward"].to_numpy()
    company = [sum(map(ord, "abcd"))] * 4 + [ord("e")]
    wanted = [ord(PROMPTS[i % 5]) + company[i % 5] / 1e4 + 1 + i for i in range(30)]
    np.testing.assert_allclose(scores, wanted, rtol=1e-6)


def test_shards_and_a_run_that_was_broken_off_have_the_bits_of_one_run(manifest, tmp_path):
    _, whole = score(manifest, tmp_path / "whole")
    read = [score(manifest, tmp_path / "shards", (number, 3)) for number in (2, 0, 1)]
    assert [bytes_ for _, bytes_ in read] == [None, None, whole]
    log = tmp_path / "whole" / "log-0-of-1.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:-3]))
    again, resumed = score(manifest, tmp_path / "whole")
    assert resumed == whole
    assert again == PROMPTS  # both groups are needed by what was left
