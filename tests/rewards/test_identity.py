"""A reward's digest changes with whatever decides its numbers, and with nothing else."""

from __future__ import annotations

import functools
import subprocess
import sys
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from palate.rewards.function import from_function
from palate.rewards.identity import content_digest
from palate.rewards.scorer import scorer_of


@dataclass
class Judge:
    network: torch.nn.Module
    words: tuple[str, ...] = ("a", "b")
    table: np.ndarray = field(default_factory=lambda: np.arange(3.0))
    scale: float = 2.0


class Plain:
    def __init__(self, factor):
        self.factor = factor

    def score(self, prompts, media, failures=None):
        return np.full(len(prompts), self.factor, np.float32)


def judge(seed=0, **changes) -> Judge:
    torch.manual_seed(seed)
    return Judge(torch.nn.Linear(3, 2), **changes)


def test_equal_content_has_an_equal_digest():
    assert content_digest(judge()) == content_digest(judge())
    assert content_digest(Plain(1)) == content_digest(Plain(1))
    assert content_digest(judge().network.bfloat16()) == content_digest(judge().network.bfloat16())


@pytest.mark.parametrize(
    "other",
    [
        judge(1),
        judge(words=("a", "c")),
        judge(words=("ab",)),
        judge(table=np.arange(3)),
        judge(table=np.arange(3.0)[::-1]),
        judge(scale=2.5),
        Plain(2),
    ],
)
def test_other_content_has_another(other):
    assert content_digest(other) not in (content_digest(judge()), content_digest(Plain(1)))


def test_one_number_of_the_weights_counts():
    changed = judge()
    with torch.no_grad():
        changed.network.weight[1, 2] += 1e-6
    assert content_digest(changed) != content_digest(judge())


def red(factor, offset=0):
    return lambda prompt, picture: picture.getpixel((0, 0))[0] * factor + offset


def test_a_function_is_its_code_its_defaults_and_what_it_closes_over():
    assert content_digest(red(1)) == content_digest(red(1))
    others = [red(2), red(1, 1), lambda prompt, picture: picture.getpixel((0, 0))[1], functools.partial(red(1), "x")]
    digests = {content_digest(one) for one in [red(1), *others]}
    assert len(digests) == 5
    assert scorer_of(from_function("red", red(1))).fingerprint != scorer_of(from_function("red", red(2))).fingerprint
    versions = [scorer_of(from_function("red", red(1), version=name)).fingerprint for name in ("a", "b")]
    assert versions[0] != versions[1]


def test_the_digest_is_the_same_in_another_process():
    code = "from palate.rewards.identity import content_digest\n"
    code += "import functools\nf = lambda prompt, picture: len(prompt) * 2\n"
    code += "print(content_digest([f, functools.partial(f, 'a'), {'b': 1, 'a': {2, 3}}, print]))"
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in range(2)
    ]
    assert runs[0] == runs[1] != ""


def test_a_cycle_ends():
    loop: list[object] = [1]
    loop.append(loop)
    assert content_digest(loop)
