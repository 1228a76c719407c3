"""A recipe's base: what is merged, what is replaced, and the mistakes."""

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from palate.errors import UserError
from palate.training.recipe import dump_recipe, load_recipe, read_recipe
from palate.training.recipe_base import FOLDERS, read_with_base, shipped_file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "first.yaml").write_text(
        "model: {path: m, lora: {rank: 8, alpha: 4}}\n"
        "method: {name: dpo, beta: 5000, anchor: 1.0}\n"
        "training: {steps: 10, optimizer: {name: adamw, weight_decay: 0.1}}\n"
        "prompts: [a, b]\n"
    )
    return tmp_path


def fault(folder: Path, text: str, *overrides: str) -> str:
    (folder / "mine.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        read_recipe(folder / "mine.yaml", list(overrides))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_sections_are_merged_however_deep_and_all_else_is_replaced(folder: Path) -> None:
    (folder / "mine.yaml").write_text(
        "base: first.yaml\nmodel: {lora: {rank: 64}}\ntraining: {optimizer: {name: adafactor}}\nprompts: [c]\nseed: 1\n"
    )
    assert read_with_base(folder / "mine.yaml") == {
        "model": {"path": "m", "lora": {"rank": 64, "alpha": 4}},
        "method": {"name": "dpo", "beta": 5000, "anchor": 1.0},
        "training": {"steps": 10, "optimizer": {"name": "adafactor", "weight_decay": 0.1}},
        "prompts": ["c"],
        "seed": 1,
    }


def test_a_method_is_replaced_whole(folder: Path) -> None:
    (folder / "mine.yaml").write_text("base: first.yaml\nmethod: {name: dpo, beta: 1}\n")
    assert read_with_base(folder / "mine.yaml")["method"] == {"name": "dpo", "beta": 1}


def test_a_base_may_have_a_base_and_is_seen_from_its_own_folder(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "second.yaml").write_text("base: ../first.yaml\ntraining: {steps: 20, seed: 2}\n")
    (folder / "mine.yaml").write_text("base: sub/second.yaml\ntraining: {seed: 3}\n")
    found = read_with_base(folder / "mine.yaml")
    assert found["training"] == {"steps": 20, "seed": 3, "optimizer": {"name": "adamw", "weight_decay": 0.1}}


def test_overrides_come_last_and_the_schema_sees_no_base(folder: Path) -> None:
    class Recipe(BaseModel):
        model_config = ConfigDict(extra="forbid")
        training: dict[str, object]
        model: dict[str, object]
        method: dict[str, object]
        prompts: list[str]

    (folder / "mine.yaml").write_text("base: first.yaml\ntraining: {steps: 20}\n")
    recipe = load_recipe(folder / "mine.yaml", ["training.steps=30", "method.beta=7"], Recipe)
    assert (recipe.training["steps"], recipe.method["beta"], recipe.method["anchor"]) == (30, 7, 1.0)
    (folder / "run.yaml").write_text(dump_recipe(recipe))  # what a run folder keeps stands alone
    (folder / "first.yaml").unlink()
    assert load_recipe(folder / "run.yaml", [], Recipe) == recipe


def test_a_shipped_recipe_goes_by_its_name_wherever_the_file_lies(folder: Path) -> None:
    (folder / "sdxl-dpo-lora").mkdir()  # a run folder may bear the name
    (folder / "mine.yaml").write_text("base: sdxl-dpo-lora\ntraining: {steps: 5}\n")
    base = read_with_base(shipped_file("sdxl-dpo-lora"))
    assert read_with_base(folder / "mine.yaml") == base | {"training": base["training"] | {"steps": 5}}
    (folder / "mine.yaml").write_text("base: tiny-reward.yaml\n")
    assert read_with_base(folder / "mine.yaml") == read_with_base(FOLDERS[1] / "tiny-reward.yaml")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "base: sdxl-dop-lora",
            "`base` is 'sdxl-dop-lora', but there is no recipe sdxl-dop-lora; did you mean sdxl-dpo",
        ),
        (
            "base: nothing-like-it",
            "`base` is 'nothing-like-it', but there is no recipe nothing-like-it; `palate recipe",
        ),
        ("base: other.yaml", "`base` is 'other.yaml', but there is no file "),
        ("base: ../no/other.yml", "`base` is '../no/other.yml', but there is no file "),
        ("base: stabilityai/sdxl", "a checkpoint or hub id belongs in model.path"),
        ("base: sub", "that is a folder; give the recipe in it, such as sub/recipe.yaml"),
        ("base: 3", "`base` is 3, but it takes one recipe"),
        ("base: [a, b]", "`base` is ['a', 'b'], but it takes one recipe"),
        ("base:", "`base` is None, but it takes one recipe"),
        ("base: mine.yaml", "`base` leads back to where it began: "),
        ("base: round.yaml", "`base` leads back to where it began: "),
        ("base: broken.yaml", "broken.yaml, line 2"),
        ("base: first.yaml\nmethod: {beta: 3}", "`method` has no name; it is replaced as a whole"),
    ],
)
def test_mistakes_are_told_in_one_line(folder: Path, text: str, told: str) -> None:
    (folder / "sub").mkdir()
    (folder / "round.yaml").write_text("base: mine.yaml\n")
    (folder / "broken.yaml").write_text("a: 1\n  b: c: d\n")
    assert told in fault(folder, text)


def test_a_base_is_not_set_on_the_command_line(folder: Path) -> None:
    told = fault(folder, "model: {path: m}", "base=first.yaml")
    assert "a base is named in the recipe's file" in told


def test_a_misspelt_base_is_guessed(folder: Path) -> None:
    class Recipe(BaseModel):
        model_config = ConfigDict(extra="forbid")
        training: dict[str, object] = {}

    (folder / "mine.yaml").write_text("bsae: first.yaml\n")
    with pytest.raises(UserError, match=r"unknown key `bsae`; did you mean `base`\? a recipe takes training, base"):
        load_recipe(folder / "mine.yaml", [], Recipe)
