"""Every shipped recipe is valid, and does what it says when only ids and sizes are changed to the tiny models'."""

import pytest

from palate.errors import UserError
from palate.t2i.align import align
from palate.t2i.recipe import Recipe
from palate.t2i.recipes import FOLDERS, copy_recipe, recipe_file, shipped
from palate.training.recipe import load_recipe

NAMES = [recipe.name for recipe in shipped() if recipe.file.parent == FOLDERS[0]]


def test_the_card_names_of_the_families_are_covered():
    assert {"tiny-sdxl-dpo", "tiny-sd3-dpo", "sd15-dpo", "sdxl-dpo", "sdxl-dpo-lora", "sd3-dpo-lora"} <= {*NAMES}


@pytest.mark.parametrize("name", NAMES)
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


@pytest.mark.parametrize("name", NAMES)
def test_each_recipe_says_what_it_does_and_where_its_numbers_are_from(name):
    text = recipe_file(name).read_text()
    assert len(text.splitlines()[0]) < 100
    assert "Source" in text or "oracle" in text


def test_copying_never_overwrites(tmp_path):
    target = copy_recipe("tiny-sdxl-dpo", tmp_path / "mine.yaml")
    assert target.read_text() == recipe_file("tiny-sdxl-dpo").read_text()
    with pytest.raises(UserError, match="exists; name another file"):
        copy_recipe("tiny-sdxl-dpo", target)


def test_a_name_that_is_nearly_right_is_guessed():
    with pytest.raises(UserError, match="did you mean tiny-sdxl-dpo"):
        recipe_file("tiny-sdxl-dop")
