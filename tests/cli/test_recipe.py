"""`palate recipe list|copy`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from palate.cli import main
from palate.t2i.recipes import shipped
from palate.training.recipe import read_recipe


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
    heads = [line for line in out.splitlines() if not line.startswith("  ")]
    assert heads == sorted({recipe.method for recipe in shipped()})
    assert {"diffusion_dpo", "mapo", "reward_model"} <= {*heads}
    lines = dict(line.split(maxsplit=1) for line in out.splitlines() if line.startswith("  "))
    assert lines.keys() == {recipe.name for recipe in shipped()}
    assert all(len(about.split()) > 3 for about in lines.values())


def test_list_takes_words_of_names_and_methods(run):
    out = run("recipe", "list", "sdxl", "inpo")[1].split()
    assert [word for word in out if word.startswith(("sdxl-", "tiny-"))] == [
        "sdxl-inpo-lora", "sdxl-smpo-lora", "tiny-sdxl-inpo", "tiny-sdxl-smpo",
    ]  # fmt: skip
    code, out, err = run("recipe", "list", "sdxl", "impo")
    assert (code, out) == (2, "")
    assert err == "palate: no recipe has sdxl and impo in its name; `palate recipe list` names them all\n"


@pytest.mark.parametrize("recipe", shipped(), ids=lambda recipe: recipe.name)
def test_a_copied_recipe_is_read_back(run, tmp_path, recipe):
    code, out, err = run("recipe", "copy", recipe.name)
    assert (code, out, err) == (0, f"wrote {recipe.name}.yaml\n", "")
    copied, source = (read_recipe(file, []) for file in (tmp_path / f"{recipe.name}.yaml", recipe.file))
    assert copied == source
    assert copied["training"]["steps"] > 0


def test_copy_to_a_file_or_into_a_folder(run, tmp_path):
    (tmp_path / "mine").mkdir()
    assert run("recipe", "copy", "tiny-sdxl-dpo.yaml", "a.yaml")[1] == "wrote a.yaml\n"
    assert run("recipe", "copy", "tiny-sdxl-dpo", "mine")[1] == "wrote mine/tiny-sdxl-dpo.yaml\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["tiny-sdxl-dop"], "there is no recipe tiny-sdxl-dop; did you mean tiny-sdxl-dpo? `palate recipe list` names"),
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
