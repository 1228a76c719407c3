"""The shipped recipes of the on-policy methods and of their judge are valid and build what they say."""

from __future__ import annotations

import pytest

from palate.t2i.models.architectures import find_architecture
from palate.t2i.online.recipe import OnlineRecipe
from palate.t2i.recipes import recipe_file, shipped
from palate.t2i.step_aware.config import StepAwareRecipe
from palate.training.order import Shares
from palate.training.recipe import load_recipe

ONLINE = [recipe.name for recipe in shipped() if recipe.method in ("spo", "d3po")]
JUDGES = [recipe.name for recipe in shipped() if recipe.method == "step_aware"]


def test_each_method_has_a_recipe_for_each_model():
    wanted = {f"{model}-{method}{end}" for method in ("spo", "d3po") for model, end in MODELS}
    assert wanted <= set(ONLINE)
    assert {f"{model}-step-aware" for model in ("sd15", "sdxl", "sd3", "tiny-sdxl", "tiny-sd3")} == set(JUDGES)


MODELS = [("tiny-sdxl", ""), ("tiny-sd3", ""), ("sdxl", "-lora"), ("sd3", "-lora")]


@pytest.mark.parametrize("name", ONLINE)
def test_an_online_recipe_fits_its_model(name):
    recipe = load_recipe(recipe_file(name), [], OnlineRecipe)
    architecture = find_architecture(recipe.model.path)
    method = recipe.method.build(architecture.family)
    assert method.name == recipe.method.name
    Shares(recipe.training.batch_size, recipe.training.micro_batch)
    assert recipe.output.folder == f"runs/{name}"
    if name == "sdxl-spo-lora":  # the paper's
        assert (recipe.method.k, recipe.method.threshold, recipe.method.inner_steps) == (2, 0.4, 3)


@pytest.mark.parametrize("name", JUDGES)
def test_a_judges_recipe_has_the_papers_settings(name):
    recipe = load_recipe(recipe_file(name), [], StepAwareRecipe)
    assert recipe.data.ties == "keep"
    assert recipe.output.folder == f"runs/{name}"
    assert find_architecture(recipe.model.path).family == {"sd15": "sd1"}.get(name.split("-")[-3], name.split("-")[-3])
    if not name.startswith("tiny"):
        steps, rate = (7000, 1e-6) if name.startswith("sdxl") else (8000, 3e-6)
        assert (recipe.training.steps, recipe.training.learning_rate) == (steps, rate)
        assert (recipe.method.labels is None) == (name != "sdxl-step-aware")
