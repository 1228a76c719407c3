import json
import math

import numpy as np
import pytest

from palate.eval.compare import Comparison

SEEDS = np.arange(8).reshape(4, 2)
BEFORE = np.array([[0.0, 1.0], [0.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
AFTER = np.array([[1.0, 1.0], [1.0, 0.0], [1.0, 1.0], [1.0, 1.0]])
PAIRED = Comparison(("p", "q", "r", "s"), ("one", "one", "two", "two"), SEEDS, BEFORE, AFTER)


def test_summary_by_hand():
    summary = PAIRED.summary()
    assert (summary["before"], summary["after"], summary["gain"]) == (0.5, 0.875, 0.375)
    # Gains of the prompts: 1/2, 1/2, 0, 1/2. All four zero has chance 1/256, so 2.5 % is 1/8 (chance 13/256 so far).
    assert summary["gain_ci95"] == [0.125, 0.5]
    assert (summary["prompts"], summary["images"], summary["excluded"]) == (4, 8, 0)
    assert summary["categories"]["one"]["gain_ci95"] == [0.5, 0.5]
    assert summary["categories"]["two"]["gain"] == 0.25
    assert (PAIRED.gain, PAIRED.gain_ci95) == (0.375, (0.125, 0.5))


def test_summary_is_json_and_the_unknown_is_null():
    alone = Comparison(("p",), ("one",), SEEDS[:1], BEFORE[:1], AFTER[:1])
    summary = json.loads(json.dumps(alone.summary(), allow_nan=False))
    assert summary["gain"] == 0.5
    assert summary["gain_ci95"] == [None, None]
    failed = Comparison(("p",), ("one",), SEEDS[:1], np.full((1, 2), math.nan), AFTER[:1])
    summary = json.loads(json.dumps(failed.summary(), allow_nan=False))
    assert (summary["before"], summary["after"], summary["gain"], summary["excluded"]) == (None, None, None, 2)


def test_a_repeated_prompt_counts_once():
    repeated = Comparison(("p", "p", "p", "q"), ("one",) * 4, SEEDS, BEFORE, AFTER)
    assert repeated.summary()["prompts"] == 2


def test_shuffled_labels_gain_nothing():
    rng = np.random.default_rng(0)
    before, after = (rng.random((300, 2)) < 0.5 for _ in range(2))
    prompts = tuple(map(str, range(300)))
    low, high = Comparison(prompts, ("one",) * 300, np.zeros((300, 2)), before, after).gain_ci95
    assert low < 0 < high


def test_parts_must_fit():
    with pytest.raises(ValueError, match=r"before \(4, 2\), after \(3, 2\) and seeds \(4, 2\) must share one shape"):
        Comparison(PAIRED.prompts, PAIRED.categories, SEEDS, BEFORE, AFTER[:3])
    with pytest.raises(ValueError, match="got 3 prompts and 4 categories for 4 rows"):
        Comparison(PAIRED.prompts[:3], PAIRED.categories, SEEDS, BEFORE, AFTER)
