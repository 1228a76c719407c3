"""The comparison of the methods: its data, its budget, and what its record holds."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image

import palate
from palate.datasets.group import Group
from palate.datasets.parquet import write_groups
from palate.datasets.shapes.prompts import is_held_out
from palate.datasets.shapes.raters import oracle_rater
from palate.datasets.shapes.world import Shape, render
from palate.errors import UserError
from palate.t2i.build.samples import sample_groups
from palate.t2i.gallery import load_lora
from palate.t2i.methods import MethodConfig, OnlineMethodConfig
from palate.t2i.models.checkpoint import find_checkpoint
from palate.t2i.models.model import TextToImageModel
from palate.t2i.models.sampling import sampling_for

sys.path.insert(0, str(Path(palate.__file__).parent / "benchmarks"))

from method_data import (
    FIRST_SEED,
    Size,
    _against_stronger,
    _captioned,
    _shuffled,
    caption_of,
    evaluation_prompts,
    evaluation_seeds,
    require_size,
)
from method_entries import ENTRIES
from method_measure import _errors
from method_online import within
from method_run import BACKWARD, FORWARD, Trained, offline_recipe, train_offline
from method_step import _compared, method_of, write_rankings
from methods import _is_done


def _png(*shapes: Shape) -> bytes:
    buffer = io.BytesIO()
    render(list(shapes)).save(buffer, "PNG")
    return buffer.getvalue()


RED_CIRCLE = Shape("circle", "red", 16, 16, 7)


def test_no_sentence_is_used_for_the_search_and_for_the_report():
    search, report = ([p.text for p in evaluation_prompts(part, 240)] for part in ("search", "report"))
    assert not set(search) & set(report)
    assert all(is_held_out(text) for text in [*search, *report])
    categories = [p.category for p in evaluation_prompts("report", 240)]
    assert {categories.count(category) for category in set(categories)} == {40}


def test_no_picture_is_drawn_from_the_same_seed_twice():
    size = Size()
    counts = {"errors": size.error_groups, "stronger": size.groups}
    drawn = list(range(size.seed, size.seed + size.groups * size.per_prompt))
    for part, groups in counts.items():
        drawn += range(FIRST_SEED[part], FIRST_SEED[part] + groups * size.per_prompt)
    for part in ("search", "report"):
        drawn += evaluation_seeds(part, size).ravel().tolist()
    assert len(set(drawn)) == len(drawn)


def test_a_caption_is_the_prompt_where_it_is_true_and_else_what_is_seen():
    picture = Image.open(io.BytesIO(_png(RED_CIRCLE)))
    assert caption_of("a view of a circle", picture) == "a view of a circle"
    assert caption_of("an image of three squares", picture) == "an image of a red circle"
    two = Image.open(io.BytesIO(_png(Shape("cross", "red", 8, 8, 5), Shape("cross", "blue", 24, 24, 5))))
    assert caption_of("a photo of a cross and a square", two) == "a photo of two crosses"


def test_a_stronger_winner_is_the_best_guided_picture_against_the_worst_of_the_models_own():
    """Whatever is drawn: the pictures come from a sampler that a test can repeat, and the oracle tells the best."""
    model = TextToImageModel(find_checkpoint("tiny-sdxl"))
    prompts = ["a photo of a red circle", "a photo of a blue cross"]
    weak = [Group(str(i), text, (b"best", b"worst"), (0.5, 0.0), seed=(1, 2)) for i, text in enumerate(prompts)]
    size = Size(per_prompt=2, batch_size=4)
    guided = sampling_for(model, 20, 4.0, batch_size=4)
    drawn = list(sample_groups(model, prompts, 2, 4_000_000, guided, oracle_rater, "x"))
    assert any(max(group.labels) > 0 for group in drawn)
    wanted = [
        (old.key, (new.candidates[new.labels.index(max(new.labels))], b"worst"), (max(new.labels), 0.0))
        for old, new in zip(weak, drawn, strict=True)
        if max(new.labels) > 0
    ]
    found = list(_against_stronger(model, weak, size))
    assert [(group.key, group.candidates, group.labels) for group in found] == wanted
    assert {(group.seed, group.model) for group in found} == {(None, None)}  # two samplers drew it
    unbeaten = [replace(group, labels=(2.0, 1.0)) for group in weak]
    assert list(_against_stronger(model, unbeaten, size)) == []


def test_half_of_the_shuffled_groups_are_turned_round_and_nothing_else_changes():
    groups = [Group(str(i), "p", (b"a", b"b", b"c"), (1.0, 0.75, 0.25)) for i in range(10)]
    shuffled = list(_shuffled(groups))
    assert sorted(g.labels for g in shuffled) == [(0.25, 0.5, 1.0)] * 5 + [(1.0, 0.75, 0.25)] * 5
    assert [(g.key, g.candidates) for g in shuffled] == [(g.key, g.candidates) for g in groups]


def test_the_losers_caption_is_changed_and_the_winners_fits():
    group = Group("k", "a photo of a red circle", (_png(RED_CIRCLE), _png(Shape("cross", "blue", 16, 16, 7))), (1, 0))
    (written,) = _captioned([group], "hybrid")
    assert written.captions is not None
    assert written.captions[0] == "a photo of a red circle"
    assert written.captions[1] not in ("a photo of a red circle", "a photo of a blue cross")


@pytest.mark.parametrize(
    ("name", "per_group", "groups", "steps"),
    [
        ("diffusion_dpo", 2 * 4, 16, 250),
        ("mapo", 2 * 3, 16, 333),
        ("rank_dpo", 4 * 4, 8, 250),
        ("inpo", 2 * (4 + 5), 16, 111),
        ("seppo", 2 * 4 + 2, 16, 200),
        ("sft", 1 * 3, 32, 333),
    ],
)
def test_steps_follow_from_the_budget(name, per_group, groups, steps, tmp_path):
    job = ENTRIES[name].job(name, "tiny-sdxl")
    recipe, cost = offline_recipe(job, tmp_path, tmp_path / "run")
    assert (cost, recipe.training.batch_size, recipe.training.steps) == (per_group, groups, steps)


@pytest.mark.parametrize("name", ["mapo", "inpo", "rank_dpo", "seppo"])
def test_the_budget_is_what_a_run_asks_of_the_network(name, tmp_path, monkeypatch):
    evaluations, forward = [], UNet2DConditionModel.forward

    def counting(self, sample, *rest, **named):  # a sampler's passes too
        evaluations.append(len(sample) * (FORWARD + BACKWARD * torch.is_grad_enabled()))
        return forward(self, sample, *rest, **named)

    monkeypatch.setattr(UNet2DConditionModel, "forward", counting)
    write_rankings(tmp_path / "groups", 6)
    job = replace(ENTRIES[name].job(name, "tiny-sdxl"), pictures=4, form="groups")
    _, per_group = offline_recipe(job, tmp_path, tmp_path / "run")
    k = _compared(method_of(name, "tiny-sdxl"))
    trained = train_offline(replace(job, evaluations=2 * per_group * 4 // k), tmp_path, tmp_path / "run")
    assert trained.steps == 2
    assert sum(evaluations) == trained.counted


def test_errors_are_those_of_the_best_and_of_the_worst(tmp_path):
    """Noise is harder to denoise than a picture, whichever of the two is called the better one."""
    noise, buffer = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8), io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    pair, model = (_png(RED_CIRCLE), buffer.getvalue()), TextToImageModel(find_checkpoint("tiny-sdxl"))
    ratios = []
    for number, labels in enumerate(((1.0, 0.0), (0.0, 1.0))):
        write_groups([Group("0", "a photo of a red circle", pair, labels)], tmp_path / f"{number}/errors")
        found = _errors(model, load_lora(model, None).unet, tmp_path / str(number))
        ratios.append(found["loser_error"] / found["winner_error"])
    assert ratios[0] > 1.2
    assert ratios[1] < 1 / 1.2


def test_steps_are_taken_off_until_the_budget_holds_them():
    tried = []

    def attempt(steps: int) -> Any:
        tried.append(steps)
        return Trained(Path("lora"), {}, steps, 16, 90 * steps if steps > 11 else 80 * steps, 1.0, 1.0, 1.0)

    assert within(1000, 12, attempt).counted == 880
    assert tried == [12, 11]
    with pytest.raises(UserError, match="does not hold one step"):
        within(70, 1, attempt)


def test_a_run_is_done_under_the_same_settings_size_and_budget():
    for name in ("mapo", "spo"):
        entry = ENTRIES[name]
        job = entry.job(name, "tiny-sdxl")
        settings = entry.way.settings(job)
        settings["training"] = {"steps": 40, **settings["training"]}  # SPO's steps are known afterwards
        done = {"form": job.form, "settings": settings, "frame": job.frame(Size()), "evaluations": 32_000}
        rate = settings["training"]["learning_rate"]
        assert _is_done(done, job)
        assert not _is_done(None, job)
        assert not _is_done({**done, "evaluations": 32_001}, job)
        assert not _is_done({**done, "frame": job.frame(Size(groups=10))}, job)
        # What the row does not name is a shipped recipe's, which may change.
        other = {**settings, "training": {**settings["training"], "learning_rate": 2 * rate}}
        assert not _is_done({**done, "settings": other}, job)
        assert not _is_done({**done, "settings": {**settings, "method": {**settings["method"], "beta": 3}}}, job)
        # A method may have got a setting since; only where it is given is the run another one.
        older = {key: value for key, value in settings["method"].items() if key not in ("beta", "snr", "sides")}
        assert _is_done({**done, "settings": {**settings, "method": older}}, job) == ("beta" not in job.method)


def test_settings_of_the_shipped_recipe_are_recorded():
    settings = ENTRIES["spo"].way.settings(ENTRIES["spo"].job("spo", "tiny-sd3"))
    told = {name: settings["method"][name] for name in ("k", "steps", "threshold", "scale", "divert_start", "guidance")}
    assert told == {"k": 2, "steps": 10, "threshold": 0.2, "scale": 4.0, "divert_start": 1, "guidance": 1.0}
    assert set(told) <= set(settings["given"])
    assert ENTRIES["spo"].job("spo", "tiny-sd3").form == "prompts"


def test_data_of_another_size_are_not_taken(tmp_path):
    require_size(tmp_path, Size())
    require_size(tmp_path, Size())
    with pytest.raises(UserError, match="another size"):
        require_size(tmp_path, Size(groups=10))


def test_the_table_has_every_method():
    configs = [*get_args(MethodConfig), *get_args(OnlineMethodConfig)]
    assert {entry.method["name"] for entry in ENTRIES.values()} == {config().name for config in configs}
