"""A recipe, carried out on a tiny CLIP: it learns, what it writes is what the scorers open, and it resumes."""

import io
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from palate.datasets.group import Group
from palate.datasets.parquet import write_groups
from palate.errors import UserError
from palate.rewards.learn.fit import REPORT, fit_reward, loss_of
from palate.rewards.learn.recipe import RewardModel, RewardRecipe
from palate.rewards.pickscore import open_pickscore
from palate.rewards.registry import open_reward
from palate.training.recipe import check_recipe
from palate.training.run_folder import Summary
from palate.training.trackers import read_metrics

TRAINING = {"steps": 40, "batch_size": 8, "micro_batch": 4, "learning_rate": 2e-3, "workers": 0, "trackers": []}


def recipe(folder: Path, clip: Path, groups: Path, *overrides: str, **model: Any) -> RewardRecipe:
    values = {
        "model": {"kind": "clip", "path": str(clip), **model},
        "data": {"path": str(groups), "holdout": 0.3, "cache": str(folder / "cache")},
        "method": {"name": "reward_model", "loss": "pickscore"},
        "training": {**TRAINING, "validate_every": 8},
        "output": {"folder": str(folder / "run")},
    }
    return check_recipe(values, list(overrides), RewardRecipe, "test")


def run(folder: Path, clip: Path, groups: Path, *overrides: str, **model: Any) -> tuple[Summary, list[str]]:
    said: list[str] = []
    return fit_reward(recipe(folder, clip, groups, *overrides, **model), said.append), said


@pytest.fixture(scope="module")
def trained(clip_folder, groups, tmp_path_factory) -> tuple[Summary, list[str]]:
    return run(tmp_path_factory.mktemp("trained"), clip_folder, groups)


@pytest.fixture
def walls(make_groups) -> tuple[list[str], list[Image.Image], list[tuple[float, ...]]]:
    """Pictures that no training has seen, group after group."""
    fresh = [group for group in make_groups(24, fresh=10_000) if not group.is_tie]
    pictures = [Image.open(io.BytesIO(data)) for group in fresh for data in group.candidates]
    return [group.prompt for group in fresh for _ in range(3)], pictures, [group.labels for group in fresh]


def test_it_learns_which_picture_is_preferred_and_pickscore_opens_it(trained, walls):
    summary, said = trained
    prompts, pictures, labels = walls
    scores = open_pickscore(summary.final).score(prompts, pictures).reshape(-1, 3)
    assert (scores.argmax(axis=1) == np.argmax(labels, axis=1)).mean() >= 0.9
    assert summary.validation["accuracy"] > 0.9
    assert said[-1] == f"to score with them: palate score IMAGES --with pickscore --weights pickscore={summary.final}"


def test_the_report_is_written_told_and_in_the_metrics(trained):
    summary, said = trained
    numbers = json.loads((summary.folder / REPORT).read_text())
    assert numbers["by_source"].keys() == {"app", "web"}
    for key in ("comparisons", "ties"):
        assert numbers[key] == sum(part[key] for part in numbers["by_source"].values())
    assert 0 < numbers["ties"] < numbers["comparisons"]
    last = read_metrics(summary.folder / "metrics.jsonl")[-1]
    assert last["step"] == 40
    assert last["validation/accuracy"] == numbers["accuracy"] == summary.validation["accuracy"]
    assert last["validation/nll"] == numbers["nll"]
    assert any(line.split()[:1] == ["all"] for line in said)


def test_prompts_are_wholly_on_one_side_and_the_report_counts_the_held_out_ones(trained, make_groups):
    from palate.datasets.holdout import is_held_out

    out = [group for group in make_groups(60) if is_held_out(group.prompt, 0.3)]
    numbers = json.loads((trained[0].folder / REPORT).read_text())
    assert numbers["comparisons"] == 3 * len(out)
    assert numbers["ties"] == sum(3 if group.is_tie else 1 for group in out)


def test_interrupted_and_resumed_it_ends_in_the_same_weights(clip_folder, groups, tmp_path, trained):
    part, _ = run(tmp_path, clip_folder, groups, "training.steps=13", "training.checkpoint_every=5")
    (part.folder / "summary.json").unlink()
    whole, _ = run(tmp_path, clip_folder, groups)
    assert whole.step == 40
    one, other = (load_file(summary.final / "model.safetensors") for summary in (whole, trained[0]))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_another_number_of_steps(clip_folder, groups, tmp_path, capsys):
    """Longer, it says what the schedule makes of it; shorter than it is, all stays as it was."""

    def start(steps: int) -> tuple[int, str]:
        summary, _ = run(tmp_path, clip_folder, groups, f"training.steps={steps}", "training.schedule=linear")
        return summary.step, capsys.readouterr().out

    start(1)
    steps, out = start(2)
    assert steps == 2
    assert "training.steps was 1 and is 2: for training.schedule this is a run of 2 steps from here on" in out
    before = (tmp_path / "run/recipe.yaml").read_text()
    steps, out = start(1)
    assert steps == 2
    assert "is finished: 2 steps" in out
    assert (tmp_path / "run/recipe.yaml").read_text() == before


@pytest.mark.parametrize("loss", ["hpsv2", "imagereward", "btt"])
def test_every_loss_trains(loss, clip_folder, groups, tmp_path):
    summary, said = run(tmp_path, clip_folder, groups, f"method.loss={loss}", "training.steps=20", "data.holdout=0")
    first, last = (read_metrics(summary.folder / "metrics.jsonl")[place]["loss"] for place in (0, -1))
    assert last < first
    assert not (summary.folder / REPORT).exists()
    assert ("9 groups left out: 9 tie" in " ".join(said)) is False
    assert any("12 groups left out: 12 tie" in line for line in said) == (loss == "imagereward")


def test_the_recipes_k_is_the_losses():
    """Under k a pair of equal scores is a tie with probability (k² - 1) / (1 + k)² = (k - 1) / (k + 1)."""
    scores, tie, decided = torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])
    for k, given in ((2, 2.0), (5, None)):
        loss = loss_of(RewardModel(name="reward_model", loss="btt", k=given))
        assert loss.function(scores, tie).item() == pytest.approx(math.log((k + 1) / (k - 1)), abs=1e-6)
        assert loss.function(scores, decided).item() == pytest.approx(math.log(k + 1), abs=1e-6)
        assert (loss.weighting, loss.uses_ties, loss.spread) == ("pairs", True, False)


def test_hpsv2s_layout_is_opened_by_hpsv2_and_gives_the_cosine(clip_folder, groups, tmp_path, walls):
    own = {"layout": "hpsv2", "tokenizer": str(clip_folder), "max_scale": 12.0}
    summary, said = run(tmp_path, clip_folder, groups, "method.loss=hpsv2", **own)
    file = summary.final / "hpsv2.safetensors"
    assert f"--weights hpsv2.1={file}" in said[-1]
    prompts, pictures, labels = walls
    reward = open_reward("hpsv2.1", weights=file, tokenizer=summary.final)
    scores = reward.score(prompts, pictures)
    assert np.abs(scores).max() <= 1
    assert (scores.reshape(-1, 3).argmax(axis=1) == np.argmax(labels, axis=1)).mean() >= 0.9
    assert reward.tower.scale.item() <= 12.001
    # An open_clip file is a start as well, here for PickScore's layout.
    again = {"layout": "pickscore", "tokenizer": str(summary.final)}
    same, _ = run(tmp_path / "again", file, groups, "training.steps=1", "training.learning_rate=1e-12", **again)
    picked = open_pickscore(same.final).score(prompts, pictures)
    np.testing.assert_allclose(picked, scores * reward.tower.scale.item(), rtol=0, atol=1e-4)


def test_only_the_upper_blocks_move(clip_folder, groups, tmp_path):
    summary, _ = run(tmp_path, clip_folder, groups, "training.steps=2", train={"text": 1, "vision": 1})
    before, after = load_file(clip_folder / "model.safetensors"), load_file(summary.final / "model.safetensors")
    assert before.keys() == after.keys()
    still = {name for name in before if torch.equal(before[name], after[name])}
    below = ("embeddings", "encoder.layers.0.", "pre_layrnorm")
    # No gradient reaches a key's bias: it adds the same to all of a query's products.
    assert {name for name in still if "k_proj.bias" not in name} == {
        name for name in before if any(part in name for part in below) and "k_proj.bias" not in name
    }


def test_a_run_goes_on_only_with_its_data(clip_folder, groups, make_groups, tmp_path):
    run(tmp_path, clip_folder, groups, "training.steps=1")
    other = tmp_path / "other"
    write_groups(make_groups(50), other)
    with pytest.raises(UserError, match=r"holds a run on other data \(4\d groups then"):
        run(tmp_path, clip_folder, other, "training.steps=2")


def test_a_run_goes_on_only_from_the_weights_that_it_began_with(clip_folder, groups, tmp_path):
    start = tmp_path / "start"
    shutil.copytree(clip_folder, start)
    run(tmp_path, start, groups, "training.steps=1", train={"vision": 1})
    weights = load_file(start / "model.safetensors")
    weights["vision_model.embeddings.class_embedding"] += 1  # one that is frozen, and in no checkpoint
    save_file(weights, start / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="began"):
        run(tmp_path, start, groups, "training.steps=2", train={"vision": 1})


def test_what_cannot_be_had_is_told_in_one_line(clip_folder, groups, make_groups, tmp_path):
    def refused(told: str, *overrides: str, data: Path = groups, **model: Any) -> None:
        with pytest.raises(UserError, match=told):
            run(tmp_path, clip_folder, data, *overrides, **model)
        assert not (tmp_path / "run").exists()

    ties, single = tmp_path / "ties", tmp_path / "single"
    write_groups([group for group in make_groups(40) if group.is_tie], ties)
    write_groups([Group("a", "a red wall", make_groups(1)[0].candidates[:1], (1.0,))], single)
    refused("all [0-9]+ groups are ties", "method.loss=imagereward", "data.holdout=0", data=ties)
    refused("none can be compared: 1 single candidate", data=single)
    refused("nowhere' does not exist: give a file", data=tmp_path / "nowhere", path=str(tmp_path / "none.pt"))
    refused("model.train.text is 3 and the text tower has 2 blocks", train={"text": 3})
    refused("none.pt does not exist", path=str(tmp_path / "none.pt"))
    refused("early_stop.metric 'acuracy' is no validation number", "training.early_stop={metric: acuracy}")
    refused("no validation number; there are none", "training.early_stop={metric: nll}", "data.holdout=0")
    refused("would hold no prompt out", "data.holdout=0.0001")


def test_recomputed_activations_change_no_weight(clip_folder, groups, tmp_path):
    weights = []
    for setting in ("false", "true"):
        more = ("training.steps=2", f"training.gradient_checkpointing={setting}")
        weights.append(load_file(run(tmp_path / setting, clip_folder, groups, *more)[0].final / "model.safetensors"))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
