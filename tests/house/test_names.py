"""Every file has a subject and every public thing a docstring; no file grows past reading."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

NAMES_NOTHING = {"utils", "util", "helpers", "helper", "common", "misc", "base", "manager", "managers", "processor"}
MOST_LINES = 500
Definition = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def names_nothing(file: Path) -> bool:
    """Whether a file or one of its folders is called after what it is not about."""
    return any(part.lower() in NAMES_NOTHING for part in (*file.parent.parts, file.stem))


def undocumented(source: str) -> Iterator[str]:
    """Public functions and classes at a module's top, and the module itself unless it is empty, without docstring."""
    module = ast.parse(source)
    if module.body and not ast.get_docstring(module):
        yield "the module"
    for node in module.body:
        if isinstance(node, Definition) and not node.name.startswith("_") and not ast.get_docstring(node):
            yield node.name


def test_no_file_is_called_after_nothing(tree: list[Path]) -> None:
    assert [str(file) for file in tree if file.suffix == ".py" and names_nothing(file)] == []


def test_every_public_name_has_a_docstring(root: Path, shipped: list[Path]) -> None:
    modules = [file for file in shipped if file.suffix == ".py"]
    missing = [f"{file}: {name}" for file in modules for name in undocumented((root / file).read_text("utf-8"))]
    assert missing == []


def test_no_file_is_too_long(root: Path, tree: list[Path]) -> None:
    sources = [file for file in tree if file.suffix == ".py"]
    lengths = {str(file): len((root / file).read_text("utf-8").splitlines()) for file in sources}
    assert {file: length for file, length in lengths.items() if length > MOST_LINES} == {}


@pytest.mark.parametrize("name", ["t2i/utils.py", "common.py", "training/helpers/seeds.py", "eval/Base.py"])
def test_a_name_for_nothing_is_found(name: str) -> None:
    assert names_nothing(Path(name))


def test_a_missing_docstring_is_found() -> None:
    source = "x = 1\nclass A:\n    '''About.'''\nclass B: ...\nasync def c(): ...\ndef _d(): ...\n"
    assert list(undocumented(source)) == ["the module", "B", "c"]
    assert list(undocumented("")) == []
    assert list(undocumented('"""About."""\n')) == []
