"""`palate recipe list|copy`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from palate.cli import main
from palate.rewards.learn.recipe import RewardRecipe
from palate.t2i.recipe import Recipe
from palate.t2i.recipes import shipped
from palate.training.recipe import load_recipe


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """`run("recipe", "list")` gives the exit code, stdout and stderr of the command, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["palate", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0), *capsys.readouterr()

    return call


def test_list_names_every_recipe_and_what_it_does(run):
    code, out, err = run("recipe", "list")
    assert (code, err) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert {"tiny-sdxl-dpo", "tiny-sd3-dpo"} <= lines.keys()
    assert lines.keys() == {recipe.name for recipe in shipped()}
    assert all(len(about.split()) > 3 for about in lines.values())


@pytest.mark.parametrize("recipe", shipped(), ids=lambda recipe: recipe.name)
def test_a_copied_recipe_is_read_back(run, tmp_path, recipe):
    code, out, err = run("recipe", "copy", recipe.name)
    assert (code, out, err) == (0, f"wrote {recipe.name}.yaml\n", "")
    assert (tmp_path / f"{recipe.name}.yaml").read_bytes() == recipe.file.read_bytes()
    schema = RewardRecipe if "rewards" in recipe.file.parts else Recipe
    assert load_recipe(tmp_path / f"{recipe.name}.yaml", [], schema).training.steps > 0


def test_copy_to_a_file_or_into_a_folder(run, tmp_path):
    (tmp_path / "mine").mkdir()
    assert run("recipe", "copy", "tiny-sdxl-dpo.yaml", "a.yaml")[1] == "wrote a.yaml\n"
    assert run("recipe", "copy", "tiny-sdxl-dpo", "mine")[1] == "wrote mine/tiny-sdxl-dpo.yaml\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["tiny-sdxl-dop"], "there is no recipe tiny-sdxl-dop; did you mean tiny-sdxl-dpo? palate ships "),
        (["../t2i/recipe"], "there is no recipe ../t2i/recipe; "),
        (["tiny-sdxl-dpo", "there.yaml"], "there.yaml exists; name another file"),
        (["tiny-sdxl-dpo", "no/such/folder/a.yaml"], "a.yaml cannot be written: No such file or directory"),
    ],
)
def test_mistakes(run, tmp_path, arguments, told):
    (tmp_path / "there.yaml").write_text("mine")
    code, out, err = run("recipe", "copy", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("palate: ")
    assert told in err
    assert err.count("\n") == 1
    assert [path.name for path in Path(tmp_path).iterdir()] == ["there.yaml"]
    assert (tmp_path / "there.yaml").read_text() == "mine"
