"""A step's loss is one number, however it is cut into micro-batches and whatever the groups' sizes."""

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from palate.datasets.parquet import write_groups
from palate.datasets.skips import SkipLog
from palate.datasets.store import GroupStore
from palate.errors import UserError
from palate.rewards.clip_keys import rename_open_clip, to_open_clip
from palate.rewards.learn.clip import ClipNetwork, open_clip_learner
from palate.rewards.learn.losses import LOSSES
from palate.rewards.learn.plan import make_plan
from palate.rewards.learn.recipe import ClipConfig
from palate.rewards.learn.task import RewardTask
from palate.rewards.pickscore import open_pickscore
from palate.rewards.scoring.picture_file import read_picture
from palate.training.order import visit_at


@pytest.fixture(scope="module")
def mixed(make_groups, tmp_path_factory) -> GroupStore:
    """Groups of two and of three, of prompts that come once, twice and more often, not all decided."""
    folder = tmp_path_factory.mktemp("mixed") / "groups"
    groups = [
        dataclasses.replace(group, candidates=group.candidates[:2], labels=group.labels[:2]) if number % 2 else group
        for number, group in enumerate(make_groups(20))
    ]
    write_groups(groups, folder)
    return GroupStore(folder)


def make_task(store: GroupStore, clip_folder, loss: str, tmp_path) -> RewardTask:
    return RewardTask(
        learner=open_clip_learner(ClipConfig(path=str(clip_folder))),
        train=make_plan(store, SkipLog()),
        held_out=None,
        pair_loss=LOSSES[loss],
        seed=5,
        batch_size=8,
        micro_batch=8,
        report_file=tmp_path / "report.json",
    )


def step(task: RewardTask, number: int) -> list[dict]:
    return [task.item(visit_at(5, task.groups, 8 * number + place)) for place in range(8)]


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if not loss.spread])
def test_micro_batches_of_any_size_make_the_same_step(name, mixed, clip_folder, tmp_path):
    task = make_task(mixed, clip_folder, name, tmp_path)
    items = step(task, 1)
    whole = task.loss(task.collate(items))[0]
    for size in (1, 2, 4):
        parts = [task.loss(task.collate(items[start : start + size]))[0] for start in range(0, 8, size)]
        torch.testing.assert_close(torch.stack(parts).mean(), whole, rtol=0, atol=1e-5)


def scored(store: GroupStore, clip_folder, task: RewardTask, number: int) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Prompt, PickScore's scores and labels of each group of a step."""
    reward = open_pickscore(clip_folder)
    found = []
    for place in range(8):
        group = store[visit_at(5, task.groups, 8 * number + place).index]
        pictures = [read_picture(data) for data in group.candidates]
        found.append((group.prompt, reward.score([group.prompt] * group.size, pictures), np.array(group.labels)))
    return found


def test_imagerewards_step_is_the_mean_over_its_decided_pairs(mixed, clip_folder, tmp_path):
    task = make_task(mixed, clip_folder, "imagereward", tmp_path)
    losses = [
        np.logaddexp(0, -(scores[i] - scores[j]))
        for _, scores, labels in scored(mixed, clip_folder, task, 0)
        for i in range(len(labels))
        for j in range(len(labels))
        if labels[i] > labels[j]
    ]
    loss, metrics = task.loss(task.collate(step(task, 0)))
    assert loss.item() == pytest.approx(np.mean(losses), abs=1e-5)
    assert metrics["accuracy"].item() == pytest.approx(np.mean([loss < np.log(2) for loss in losses]), abs=1e-6)


def test_pickscores_step_weighs_by_how_often_the_prompt_comes(mixed, clip_folder, tmp_path):
    task = make_task(mixed, clip_folder, "pickscore", tmp_path)
    counts = Counter(group.prompt for group in mixed)
    assert len(set(counts.values())) > 1
    groups = scored(mixed, clip_folder, task, 0)
    shares = np.array([1 / counts[prompt] for prompt, _, _ in groups])
    losses = []
    for _, scores, labels in groups:
        pairs = [(i, j) for i in range(len(labels)) for j in range(i)]
        kl = []
        for i, j in pairs:
            y = torch.tensor([np.sign(labels[i] - labels[j]) / 2 + 0.5]).clamp(0, 1)
            p = torch.tensor([scores[i] - scores[j]]).sigmoid()
            entropy = 0 if y.item() in (0, 1) else float(np.log(2))
            kl.append(F.binary_cross_entropy(p.double(), y.double()).item() - entropy)
        losses.append(np.mean(kl))
    loss, _ = task.loss(task.collate(step(task, 0)))
    assert loss.item() == pytest.approx((shares / shares.sum()) @ losses, abs=1e-5)


class Levels(nn.Module):
    """Scores a picture by its first number."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, words, pixels: Tensor, owners: Tensor) -> Tensor:
        return self.scale * pixels[:, 0, 0, 0]


class LevelLearner:
    """A learner without a language or a look."""

    def __init__(self) -> None:
        self.network = Levels()

    def prepare(self, picture: Image.Image) -> Tensor:
        return torch.tensor(np.asarray(picture)[:1, :1, :1].copy()).float()

    def fault(self, prompt: str) -> str | None:
        return None

    def read(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        return {}

    def save(self, folder: Path) -> None: ...

    def how_to_score(self, folder: Path) -> str:
        return ""


def test_accuracy_counts_equal_scores_half_and_ties_not_at_all(mixed, clip_folder, tmp_path):
    task = dataclasses.replace(make_task(mixed, clip_folder, "btt", tmp_path), learner=LevelLearner())

    def item(scores: list[float], labels: list[float]) -> dict:
        pixels = [torch.full((1, 1, 1), score) for score in scores]
        return {"prompt": "", "pixels": pixels, "labels": labels, "weight": 1.0}

    items = [item([3.0, 1.0], [1, 0]), item([2.0, 2.0], [0, 1]), item([5.0, 4.0], [1, 1])]
    metrics = task.loss(task.collate(items))[1]
    assert metrics["accuracy"].item() == 0.75  # one right, one undecided
    assert metrics["margin"].item() == 1


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 5, 8])
def test_validation_counts_every_group_whatever_the_micro_batch(micro_batch, mixed, clip_folder, tmp_path):
    task = make_task(mixed, clip_folder, "btt", tmp_path)
    held_out = task.train.subset(lambda entry: entry.row < 5)
    task = dataclasses.replace(task, learner=LevelLearner(), held_out=held_out, micro_batch=micro_batch)
    wins = []
    for group in (mixed[row] for row in range(5)):
        levels = [float(np.asarray(read_picture(data))[0, 0, 0]) for data in group.candidates]
        pairs = [(i, j) for i in range(group.size) for j in range(group.size) if group.labels[i] > group.labels[j]]
        wins += [np.heaviside(levels[i] - levels[j], 0.5) for i, j in pairs]
    assert task.validate()["accuracy"] == pytest.approx(np.mean(wins))
    numbers = json.loads(task.report_file.read_text())
    assert numbers["comparisons"] == sum(
        group.size * (group.size - 1) // 2 for group in (mixed[row] for row in range(5))
    )


def test_a_broken_picture_names_its_group(mixed, clip_folder, tmp_path, monkeypatch):
    task = make_task(mixed, clip_folder, "btt", tmp_path)
    monkeypatch.setattr("palate.rewards.learn.task.read_picture", lambda data: (_ for _ in ()).throw(ValueError("cut")))
    with pytest.raises(UserError, match=r"group 'g\d+' has a picture that cannot be used: cut"):
        task.item(visit_at(5, task.groups, 0))


def test_a_bound_of_the_scale_holds_and_lets_gradients_pass(clip_folder):
    model = open_clip_learner(ClipConfig(path=str(clip_folder))).network.model
    with torch.no_grad():
        model.logit_scale.fill_(6.0)
    network = ClipNetwork(model, 1, max_scale=100.0)
    assert network.log_scale.exp().item() == pytest.approx(100)
    network.log_scale.backward()
    assert model.logit_scale.grad is not None
    assert model.logit_scale.grad.item() == 1


def test_open_clips_keys_come_back(make_open_clip):
    state = make_open_clip().state_dict()
    back = to_open_clip(rename_open_clip(state, "state"))
    assert back.keys() == {key for key in state if key != "attn_mask"}
    assert all(torch.equal(back[key], state[key]) for key in back)
