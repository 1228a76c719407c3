"""Every shipped recipe is valid, and does what it says when only ids and sizes are changed to the tiny models'."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import yaml

from palate.errors import UserError
from palate.rewards.learn.recipe import RewardModel, RewardRecipe
from palate.t2i.align import align
from palate.t2i.methods import MethodConfig, OnlineMethodConfig
from palate.t2i.models.architectures import find_architecture
from palate.t2i.models.sides import latent_shape, require_side
from palate.t2i.online.recipe import OnlineRecipe
from palate.t2i.recipe import Recipe
from palate.t2i.recipes import copy_recipe, recipe_file, shipped
from palate.t2i.recipes.whole import whole_text
from palate.t2i.step_aware.config import StepAwareMethod
from palate.training.order import Shares
from palate.training.recipe import check_recipe, load_recipe

METHODS = {config.model_fields["name"].default for config in get_args(MethodConfig)}
NAMES = [recipe.name for recipe in shipped() if recipe.method in METHODS]
STANDALONE = [name for name in NAMES if "base" not in yaml.safe_load(recipe_file(name).read_text())]
MODELS = ("tiny-sdxl-{}", "tiny-sd3-{}", "sdxl-{}-lora", "sd3-{}-lora")


def test_the_card_names_of_the_families_are_covered():
    assert {"tiny-sdxl-dpo", "tiny-sd3-dpo", "sd15-dpo", "sdxl-dpo", "sdxl-dpo-lora", "sd3-dpo-lora"} <= {*STANDALONE}


@pytest.mark.parametrize("method", sorted(METHODS - {"sft"}))  # fine-tuning on winners is what methods are held against
def test_a_method_has_a_recipe_for_each_model(method):
    for model in MODELS:
        short = method.removeprefix("diffusion_").replace("_", "-")
        recipe = load_recipe(recipe_file(model.format(short)), [], Recipe)
        assert recipe.method.name == method


@pytest.mark.parametrize("variant", ["smpo", "sdpo"])
def test_a_variant_has_a_recipe_for_each_model(variant):
    for model in MODELS:
        method = load_recipe(recipe_file(model.format(variant)), [], Recipe).method
        assert (method.gamma, method.corrections) == (10, 1) if variant == "smpo" else method.safeguard == 0.6


@pytest.mark.parametrize("name", ["sd3-pnapo-lora", "sdxl-pnapo-lora"])
def test_cosines_of_hpsv2_weigh_in_pnapo(name):
    """2 p - 1 of two pictures 0.02 apart, as p is for the model that gave the cosines: logits are 100 times these."""
    scale = load_recipe(recipe_file(name), [], Recipe).method.label_scale
    assert math.tanh(0.02 / scale / 2) == pytest.approx(math.tanh(100 * 0.02 / 2))


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_recipe_fits_its_model(name):
    recipe = load_recipe(recipe_file(name), [], Recipe)
    architecture = find_architecture(recipe.model.path)
    resolution = recipe.data.resolution or architecture.resolution
    require_side(architecture, resolution, drawing=True)
    channels, height, width = latent_shape(architecture, resolution)
    method = recipe.method.build(channels * height * width)
    assert method.name == recipe.method.name
    family = {"tiny": name.split("-")[1], "sd15": "sd1"}.get(name.split("-")[0], name.split("-")[0])
    assert architecture.family == family
    Shares(recipe.training.batch_size, recipe.training.micro_batch)
    assert recipe.model.tuning == ("lora" if name.endswith("-lora") or name.startswith("tiny") else "full")
    assert recipe.output.folder == f"runs/{name}"


@pytest.mark.parametrize("name", [*STANDALONE, "tiny-sd3-mapo", "sdxl-kto-lora"])
def test_a_shipped_recipe_runs_on_the_tiny_models(name, pairs, tiny_sd1, tmp_path):
    path = "tiny-sd3" if "sd3" in name else "tiny-sdxl" if "sdxl" in name else str(tiny_sd1)
    small = {
        "model.path": path,
        "data.path": pairs,
        "data.cache": tmp_path / "cache",
        "data.resolution": 32,
        "training.steps": 2,
        "training.batch_size": 4,
        "training.micro_batch": 2,
        "training.warmup_steps": 0,
        "training.workers": 0,
        "training.precision": "no",
        "validation.steps": 2,
        "output.folder": tmp_path / "run",
    }
    recipe = load_recipe(recipe_file(name), [f"{key}={value}" for key, value in small.items()], Recipe)
    summary = align(recipe, say=lambda line: None)
    assert summary.finished
    assert summary.step == 2
    assert (summary.final / "README.md").is_file()
    assert (summary.final / "kohya.safetensors").is_file() == (recipe.model.tuning == "lora")
    assert len(list((tmp_path / "run" / "samples").glob("*.png"))) == 2
    assert load_recipe(tmp_path / "run" / "recipe.yaml", [], Recipe) == recipe  # as resolved: it needs no base


@pytest.mark.parametrize("name", NAMES)
def test_each_recipe_says_what_it_does_and_where_its_numbers_are_from(name):
    text = recipe_file(name).read_text()
    assert len(text.splitlines()[0]) < 100
    assert "Source" in text or "oracle" in text


@pytest.mark.parametrize("name", [recipe.name for recipe in shipped()])
def test_a_copy_is_whole_and_means_the_same(name, tmp_path):
    file = recipe_file(name)
    copy = copy_recipe(name, tmp_path / "mine.yaml")
    values = yaml.safe_load(copy.read_text())
    assert "base" not in values
    if name in NAMES:
        assert load_recipe(copy, [], Recipe) == load_recipe(file, [], Recipe)
    if name in STANDALONE:
        assert copy.read_bytes() == file.read_bytes()


def test_a_copy_keeps_the_comments_and_the_order():
    text = whole_text(recipe_file("tiny-sdxl-rank-dpo"))
    assert text.startswith("# The tiny SDXL on its own samples: RankDPO")
    assert "batch_size: 16            # pairs per optimizer step" in text  # the base's
    assert "targets:                # every layer of the blocks" in text
    assert "beta: 500\n  rank_source: label" in text
    assert text.index("model:") < text.index("data:") < text.index("method:") < text.index("training:")
    sd3 = whole_text(recipe_file("sd3-rank-dpo-lora"))
    assert "path: groups\n  resolution: 1024" in sd3  # in the place of the base's
    assert "micro_batch: 1\n" in sd3
    assert "micro_batch: 2" not in sd3
    assert "pickapic" not in sd3


def test_copying_never_overwrites(tmp_path):
    target = copy_recipe("tiny-sdxl-dpo", tmp_path / "mine.yaml")
    with pytest.raises(UserError, match="exists; name another file"):
        copy_recipe("tiny-sdxl-dpo", target)


def test_a_name_that_is_nearly_right_is_guessed():
    with pytest.raises(UserError, match="did you mean tiny-sdxl-dpo"):
        recipe_file("tiny-sdxl-dop")


def test_an_unknown_method_is_told_with_those_of_every_kind_of_run():
    judges = {get_args(kind.model_fields["name"].annotation)[0] for kind in (RewardModel, StepAwareMethod)}
    online = {config.model_fields["name"].default for config in get_args(OnlineMethodConfig)}
    values = {"model": {"path": "x", "kind": "clip"}, "data": {"path": "x"}, "output": {"folder": "x"}}
    names = ", ".join(sorted(METHODS | judges | online))
    for given, guess in (("reward-model", "reward_model"), ("dpo", "diffusion_dpo or em_dpo or rank_dpo"), ("ppo", "")):
        with pytest.raises(UserError) as refused:
            check_recipe({**values, "method": {"name": given, "loss": "btt"}}, [], Recipe, "mine.yaml")
        asked = f"did you mean {guess}? " if guess else ""
        told = f"recipe mine.yaml: `method.name`: there is no method {given}; {asked}the methods are {names}"
        assert str(refused.value) == told
    assert {recipe.method for recipe in shipped()} <= METHODS | judges | online


@pytest.mark.parametrize(
    ("schema", "sections", "told"),
    [
        (Recipe, {"method": {"name": "pnapo", "decay": 2}}, "`method.decay` is 2, but"),
        (OnlineRecipe, {"method": {"name": "spo", "judge": {"name": 3}}}, "`method.judge.name` is 3, but"),
        (
            OnlineRecipe,
            {"method": {"name": "spoo"}},
            "`method.name`: there is no method spoo; the methods are d3po, spo",
        ),
        (RewardRecipe, {"model": {"kind": "vlm", "lora": {"rank": 0}}}, "`model.lora.rank` is 0, but"),
        (
            RewardRecipe,
            {"model": {"kind": "clap"}},
            "`model.kind`: there is no kind clap; the kinds are blip, clip, vlm",
        ),
        (RewardRecipe, {"model": {"path": "x"}}, "`model.kind` is missing; the kinds are blip, clip, vlm"),
    ],
)
def test_a_mistake_is_told_by_the_path_that_the_user_wrote(schema, sections, told):
    method = {"name": "reward_model", "loss": "btt"}
    values = {"model": {"path": "x"}, "data": {"path": "x"}, "method": method, "output": {"folder": "x"}}
    with pytest.raises(UserError) as refused:
        check_recipe({**values, **sections}, [], schema, "mine.yaml")
    assert str(refused.value).startswith(f"recipe mine.yaml: {told}")
