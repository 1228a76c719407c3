"""A step-aware recipe from end to end on tiny networks."""

import dataclasses

import pytest
import torch
from pydantic import ValidationError

from palate.datasets.parquet import write_groups
from palate.errors import UserError
from palate.rewards.step_aware import FILE, open_step_aware
from palate.t2i.step_aware.fit import fit_step_aware, open_frozen, prepared_pairs
from palate.training.task import Visit


def quiet(line: str) -> None:
    pass


def test_it_learns_and_what_it_writes_opens(recipe_for, task_for, shape_groups, tmp_path):
    write_groups(iter(shape_groups(8)), tmp_path / "few")
    settings = {"steps": 10, "batch_size": 16, "micro_batch": 16, "learning_rate": 2e-3}
    recipe = recipe_for(data={"path": str(tmp_path / "few")}, training=settings)
    task = task_for(recipe)
    batch = task.collate([task.item(Visit(1000 + number, number % task.groups)) for number in range(64)])
    before = task.loss(batch)[0].item()
    summary = fit_step_aware(recipe, quiet)
    task.judge = open_step_aware(summary.final)
    task.network = task.judge.network
    assert task.loss(batch)[0].item() < 0.85 * before
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)).expand(2, -1, -1, -1)
    early, late = task.judge.score_at(["a red circle"] * 2, pixels, torch.tensor([1, 951]))
    assert early != late


def test_a_resumed_run_equals_the_uninterrupted_one(recipe_for, tmp_path):
    whole = fit_step_aware(recipe_for(training={"steps": 4}, output={"folder": str(tmp_path / "whole")}), quiet)
    fit_step_aware(recipe_for(training={"checkpoint_every": 1}), quiet)
    resumed = fit_step_aware(recipe_for(training={"steps": 4}), quiet)
    assert resumed.step == whole.step == 4
    assert (resumed.final / FILE).read_bytes() == (whole.final / FILE).read_bytes()


def test_another_number_of_steps(recipe_for, tmp_path, capsys):
    """Longer, it says what the schedule makes of it; shorter than it is, all stays as it was."""

    def start(steps: int) -> tuple[int, str]:
        summary = fit_step_aware(recipe_for(training={"steps": steps, "schedule": "linear"}), quiet)
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


def test_frozen_blocks_stay_and_the_time_is_trained(recipe_for, start):
    validating = {"validate_every": 2, "early_stop": {"metric": "accuracy_t251"}}
    method = {"train": {"text": 1, "vision": 1}, "evaluate_at": [0, 251]}
    summary = fit_step_aware(recipe_for(method=method, data={"holdout": 0.2}, training=validating), quiet)
    assert summary.validation.keys() >= {"accuracy", "accuracy_t0", "accuracy_t251"}
    trained, begun = open_step_aware(summary.final), open_step_aware(start)
    before, after = begun.network.state_dict(), trained.network.state_dict()
    moved = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert "model.vision_model.encoder.layers.2.mlp.fc1.weight" in moved
    assert {f"time.blocks.{number}.weight" for number in range(3)} <= moved
    frozen = ("encoder.layers.0.", "encoder.layers.1.mlp", "embeddings")
    assert not [name for name in moved if "vision_model" in name and any(part in name for part in frozen)]


def test_a_reward_can_label(recipe_for, pairs, shape_groups, tmp_path):
    turned = [
        dataclasses.replace(group, labels=(group.labels[1], group.labels[0]), key=f"t{group.key}")
        for group in shape_groups(4)
    ]
    write_groups(iter(turned), tmp_path / "turned")
    recipe = recipe_for(
        data={"path": str(tmp_path / "turned")},
        method={"labels": {"reward": "shapes_oracle", "scale": 100.0}},
    )
    prepared = prepared_pairs(open_frozen(recipe.model, "no", "cpu"), recipe, quiet, lambda *progress: None)
    # People were made to prefer the wrong picture, which stands first; the oracle is not taken in.
    labels = [prepared.train[number].labels for number in range(4)]
    assert (1.0, 0.0) not in labels
    assert (0.0, 1.0) in labels
    labels = {"reward": "shapes_oracle", "gap": 0.9}
    none_left = recipe_for(data={"path": str(tmp_path / "turned"), "ties": "drop"}, method={"labels": labels})
    with pytest.raises(UserError, match=r"all 4 groups are ties for shapes_oracle at a gap of 0.9, .* data.ties is"):
        prepared_pairs(open_frozen(recipe.model, "no", "cpu"), none_left, quiet, lambda *progress: None)


def test_ties_are_kept_unless_the_recipe_says_otherwise(recipe_for, shape_groups, tmp_path):
    groups = [dataclasses.replace(group, labels=(0.5, 0.5)) for group in shape_groups(4)]
    write_groups(iter(groups), tmp_path / "ties")
    assert fit_step_aware(recipe_for(data={"path": str(tmp_path / "ties")}), quiet).finished
    with pytest.raises(UserError, match="all are ties"):
        fit_step_aware(recipe_for(data={"path": str(tmp_path / "ties"), "ties": "drop"}, output={"folder": "y"}), quiet)


@pytest.mark.parametrize(
    ("section", "settings", "told"),
    [
        ("method", {"guidence": 5}, "guidence"),
        ("method", {"evaluate_at": [1001]}, "evaluate_at"),
        ("method", {"evaluate_at": []}, "evaluate_at"),
        ("data", {"caption_dropout": 0.1}, "caption_dropout has no effect"),
        ("data", {"order": "curriculum"}, "data.order has no effect"),
        ("training", {"compile": True}, "compile has no effect"),
        ("model", {"tuning": "lora"}, "tuning"),
    ],
)
def test_what_has_no_effect_is_refused(recipe_for, section, settings, told):
    with pytest.raises(ValidationError, match=told):
        recipe_for(**{section: settings})


def test_mistakes_are_told_before_anything_is_written(recipe_for, tmp_path):
    cases = [
        ({"method": {"start": str(tmp_path / "nothing")}}, "cannot be loaded as a CLIP model"),
        ({"method": {"train": {"vision": 9}}}, "method.train.vision is 9 and the vision tower has 3"),
        (
            {"training": {"early_stop": {"metric": "fun"}, "validate_every": 1}, "data": {"holdout": 0.2}},
            "accuracy_t251",
        ),
        ({"data": {"resolution": 30}}, "data.resolution is 30"),
    ]
    for changes, told in cases:
        with pytest.raises(UserError, match=told):
            fit_step_aware(recipe_for(**changes), quiet)
        assert not (tmp_path / "run").exists()


def test_another_start_cannot_go_on_with_a_run(recipe_for, start, tmp_path):
    fit_step_aware(recipe_for(), quiet)
    (tmp_path / "moved").symlink_to(start)
    with pytest.raises(UserError, match=r"another recipe: method.start"):
        fit_step_aware(recipe_for(method={"start": str(tmp_path / "moved")}, training={"steps": 3}), quiet)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_it_tells_right_from_wrong_on_prompts_that_it_has_not_seen(recipe_for, shape_groups, tmp_path):
    """Two minutes on one quiet core.

    Without guidance: the distortions of a picture that was guided to a prompt which it does not show are seen at half
    noise without reading, and so few steps teach little else.
    """
    write_groups(iter(shape_groups(2000)), tmp_path / "many")
    settings = {"steps": 300, "batch_size": 32, "micro_batch": 32, "warmup_steps": 20, "validate_every": 300}
    data = {"path": str(tmp_path / "many"), "holdout": 0.1}
    recipe = recipe_for(data=data, method={"guidance": 1.0}, training=settings)
    numbers = fit_step_aware(recipe, quiet).validation
    assert numbers["accuracy_t0"] >= 0.7
