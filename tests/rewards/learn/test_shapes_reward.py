"""A tiny CLIP with random weights learns the shapes world's oracle from comparisons."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import palate
from palate.datasets.shapes.oracle import judge
from palate.datasets.shapes.prompts import CATEGORIES, is_held_out
from palate.datasets.store import GroupStore
from palate.rewards.learn.fit import REPORT, fit_reward
from palate.rewards.learn.recipe import RewardRecipe
from palate.rewards.pickscore import open_pickscore
from palate.rewards.scorer import open_scorers
from palate.rewards.scoring.batch import score_images
from palate.rewards.scoring.picture_file import read_picture
from palate.t2i.recipes import recipe_file
from palate.training.recipe import load_recipe

ROOT = Path(palate.__file__).parent


def agreement(store: GroupStore, weights: Path) -> float:
    """The share of all pairs that the oracle tells apart in which the reward says the same."""
    reward = open_pickscore(weights)
    right = []
    for group in store:
        assert is_held_out(group.prompt)
        pictures = [read_picture(data) for data in group.candidates]
        truth = [judge(group.prompt, picture).score for picture in pictures]
        scores = reward.score([group.prompt] * len(pictures), pictures)
        right += [
            (scores[i] > scores[j]) == (truth[i] > truth[j])
            for i, j in itertools.combinations(range(len(pictures)), 2)
            if truth[i] != truth[j]
        ]
    assert len(right) > 2000
    return float(np.mean(right))


def run(folder: Path, *command: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_example_makes_a_start_and_groups_that_the_recipe_takes_and_the_scorer_opens(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(tmp_path, str(ROOT / "examples/shapes_reward.py"), "--output", ".", "--groups", "48", "--held-out", "24")
    said: list[str] = []
    small = ["training.steps=2", "training.trackers=[]", "training.workers=0"]
    summary = fit_reward(load_recipe(recipe_file("tiny-reward"), small, RewardRecipe), said.append)
    assert any("groups train, 24 validate" in line for line in said)
    assert json.loads((summary.folder / REPORT).read_text())["by_source"].keys() == set(CATEGORIES)
    scorers = open_scorers(["pickscore"], {"pickscore": {"weights": str(summary.final)}})
    scored = score_images("groups/validation", scorers, "scores")
    assert (scored.images, scored.new, scored.failures) == (96, {"pickscore": 96}, {"pickscore": 0})


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_it_agrees_with_the_oracle_on_nine_of_ten_held_out_pairs(tmp_path):
    """Five minutes on two quiet cores."""
    run(tmp_path, str(ROOT / "examples/shapes_reward.py"), "--output", ".")
    run(tmp_path, "-m", "palate", "train", "tiny-reward")
    assert agreement(GroupStore(tmp_path / "groups", "validation"), tmp_path / "run/final") >= 0.9
