"""The commands in the documentation are commands: each parses, and each training command makes a valid recipe."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import get_args

import pytest
import typer.main
import yaml

from palate.cli import app
from palate.t2i.methods import MethodConfig
from palate.t2i.recipe import Recipe
from palate.t2i.recipes import find_recipe, shipped
from palate.training.recipe import check_recipe, read_recipe

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
METHODS = {config.model_fields["name"].default for config in get_args(MethodConfig)}


def commands(page: Path) -> list[str]:
    """In a page's shell blocks and, in papers.md, those in its tables too."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    found = [line for block in blocks for line in block.splitlines() if line.startswith("palate ")]
    if page.name == "papers.md":
        rows = [line for line in text.splitlines() if line.startswith("|")]
        found += [
            span
            for row in rows
            for span in re.findall(r"`(palate [^`]*)`", row)
            if re.search(r"--out|palate train ", span)  # else it only names a verb
        ]
    return found


CASES = [
    pytest.param(command, id=f"{page.name}-{number}") for page in PAGES for number, command in enumerate(commands(page))
]


def test_there_are_commands():
    assert len(CASES) > 40
    assert len(commands(ROOT / "docs" / "papers.md")) > 20


@pytest.mark.parametrize("command", CASES)
def test_a_documented_command_is_one(command):
    words = shlex.split(command, comments=True)[1:]
    verb = typer.main.get_command(app)
    while hasattr(verb, "commands"):
        verb = verb.commands[words.pop(0)]
    given = verb.make_context("palate", words).params  # a wrong option raises
    names = {recipe.name: recipe for recipe in shipped()}
    if verb.name == "train" and given["recipe"] in names and names[given["recipe"]].method in METHODS:
        values = read_recipe(find_recipe(given["recipe"]), given["overrides"] or [])
        check_recipe(values, [], Recipe, given["recipe"]).method.build(65536)


def table(page: str) -> dict[str, str]:
    """A page's rows that begin with a method's name."""
    rows = re.findall(r"^\| `(\w+)` \| (.*)$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    return {name: rest for name, rest in rows if name in METHODS}


def test_the_readme_has_every_method():
    assert table("README.md").keys() == METHODS


@pytest.mark.parametrize("config", get_args(MethodConfig), ids=lambda config: config.__name__)
def test_the_keys_and_defaults_of_a_method_are_as_documented(config):
    fields = {name: field.default for name, field in config.model_fields.items() if name != "name"}
    told = dict(re.findall(r"`(\w+)`(?: (?=\w)([\w.]*\w))?", table("docs/recipe.md")[config().name]))
    assert told.keys() == fields.keys()
    for name, text in told.items():
        if text:
            assert yaml.safe_load(text) == fields[name]
        else:
            assert fields[name] in (None, "mean")  # safeguard and reduction, which all have alike
