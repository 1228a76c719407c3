"""Every shipped reward recipe does what it says when only paths and sizes are changed to the tiny models'."""

import dataclasses

import pytest

from palate.datasets.parquet import write_groups
from palate.rewards.learn.fit import fit_reward
from palate.rewards.learn.recipe import RewardRecipe
from palate.t2i.recipes import FOLDERS, shipped
from palate.training.recipe import load_recipe

RECIPES = [recipe for recipe in shipped() if recipe.file.parent == FOLDERS[1]]
TINY = {
    "training.steps": 2,
    "training.batch_size": 4,
    "training.micro_batch": 2,
    "training.workers": 0,
    "training.precision": "no",
    "training.trackers": "[]",
}


def test_the_published_methods_are_there():
    names = {recipe.name for recipe in RECIPES}
    assert {"reward-pickscore", "reward-hpsv2", "reward-hpsv3", "reward-imagereward", "tiny-reward"} <= names


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
@pytest.mark.usefixtures("short_questions")
def test_it_runs_on_a_tiny_model(recipe, clip_folder, imagereward_folder, qwen_folder, make_groups, tmp_path):
    read = load_recipe(recipe.file, [], RewardRecipe)
    groups = make_groups(16)
    if read.model.kind == "blip":
        groups = [dataclasses.replace(group, prompt="a red dog") for group in groups]
    for split in (read.data.split, read.data.holdout_split):
        write_groups(groups, tmp_path / "groups" / str(split))
    changes = {**TINY, "data.path": tmp_path / "groups", "output.folder": tmp_path / "run"}
    if read.model.kind == "blip":
        changes |= {"model.path": imagereward_folder / "ImageReward.pt", "model.tokenizer": imagereward_folder}
    elif read.model.kind == "vlm":
        changes |= {"model.path": qwen_folder}
    else:
        changes |= {"model.path": clip_folder}
        if read.model.train.text:
            changes |= {"model.train": "{text: 1, vision: 1}"}
    small = load_recipe(recipe.file, [f"{key}={value}" for key, value in changes.items()], RewardRecipe)
    summary = fit_reward(small, say=lambda line: None)
    assert (summary.finished, summary.step) == (True, 2)
    assert summary.validation["nll"] > 0
    assert len(recipe.about) < 120
    assert "Sources" in recipe.file.read_text() or "oracle" in recipe.file.read_text()
