"""Who may import whom: an import only points down, and rooms on one floor do not know each other."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

PACKAGE = "palate"
FLOORS = [
    {"", "errors"},  # the package's face, and the two errors that every room raises
    {"objectives", "diffusion", "datasets"},
    {"training"},
    {"rewards"},
    {"t2i", "vlm", "audio"},
    {"eval", "app"},
    {"cli"},
    {"__main__"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def room_of(file: Path) -> str:
    """The room that a file of the tree lies in: its folder, or its own name at the root ('' for `__init__.py`)."""
    if len(file.parts) > 1:
        return file.parts[0]
    return "" if file.stem == "__init__" else file.stem


def imported(source: str, file: Path) -> Iterator[tuple[int, str | None, bool]]:
    """Line, room and relativity of every import of palate in a file, whether at its top, in a function or for types.

    The room is None where a relative import leaves the package.
    """
    package = [PACKAGE, *file.parts[:-1]]  # of `a/b.py` and of `a/__init__.py` alike: palate.a
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                if parts[0] == PACKAGE:
                    yield node.lineno, _room(parts), False
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            named = [*base, *(node.module or "").split(".")] if node.module else base
            if node.level and not base:
                yield node.lineno, None, True
            elif named and named[0] == PACKAGE:
                for alias in node.names:
                    yield node.lineno, _room([*named, alias.name]), bool(node.level)


def _room(parts: list[str]) -> str:
    # `from .. import __version__` names no room but something in the package's own `__init__`.
    return parts[1] if len(parts) > 1 and (parts[1] in FLOOR or len(parts) > 2) else ""


def faults(root: Path, files: Iterable[Path]) -> list[str]:
    """One line for every import that breaks the house's rules; `files` are relative to `root`."""
    found = []
    for file in files:
        here = room_of(file)
        if here not in FLOOR:
            found.append(f"{file}: {here} has no floor; give it one in DESIGN's table and here")
            continue
        for line, room, relative in imported((root / file).read_text(encoding="utf-8"), file):
            where = f"{file}:{line}"
            if room is None:
                found.append(f"{where} leaves the package")
            elif not relative:
                found.append(f"{where} imports palate by name; inside the package imports are relative")
            elif room not in FLOOR:
                found.append(f"{where} imports {room}, which has no floor")
            elif room != here and FLOOR[room] >= FLOOR[here]:
                way = "beside" if FLOOR[room] == FLOOR[here] else "above"
                found.append(f"{where} imports {room}, which lies {way} {here or 'the root'}")
    return found


def test_every_import_points_down(root: Path, shipped: list[Path]) -> None:
    modules = [file for file in shipped if file.suffix == ".py"]
    assert len(modules) > 50
    assert faults(root, modules) == []


def test_the_checker_sees_the_imports_of_the_real_tree(root: Path) -> None:
    source = (root / "t2i/align.py").read_text(encoding="utf-8")
    assert {"training", "t2i"} <= {room for _, room, _ in imported(source, Path("t2i/align.py"))}


@pytest.mark.parametrize(
    ("file", "line", "told"),
    [
        ("training/loop.py", "from ..t2i.align import align", "t2i, which lies above training"),
        ("training/loop.py", "from .. import t2i", "t2i, which lies above training"),
        ("training/loop.py", "def f():\n    from ..rewards import zoo", "loop.py:2 imports rewards"),
        ("training/loop.py", "if TYPE_CHECKING:\n    from ..cli import train", "cli, which lies above training"),
        ("t2i/methods/kto.py", "from ...vlm.models import chat", "vlm, which lies beside t2i"),
        ("t2i/methods/kto.py", "from ....palate import errors", "leaves the package"),
        ("eval/report.py", "from ..app import arena", "app, which lies beside eval"),
        ("objectives/dpo.py", "from ..diffusion import process", "diffusion, which lies beside objectives"),
        ("datasets/open.py", "import palate.errors", "imports palate by name"),
        ("datasets/open.py", "from palate.errors import UserError", "imports palate by name"),
        ("datasets/open.py", "from ..elsewhere.files import read", "elsewhere, which has no floor"),
        ("elsewhere/files.py", "", "elsewhere has no floor"),
        ("errors.py", "from .training import loop", "training, which lies above errors"),
        ("__init__.py", "from .cli import main", "cli, which lies above the root"),
        ("rewards/__init__.py", "from ..t2i import align", "t2i, which lies above rewards"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path: Path, file: str, line: str, told: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(line)
    (found,) = faults(tmp_path, [Path(file)])
    assert told in found


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("t2i/methods/kto.py", "from ...objectives import kto\nfrom ..method import Method\nfrom . import dpo"),
        ("t2i/__init__.py", "from .. import __version__\nfrom ..errors import UserError\nfrom .align import align"),
        ("cli/__init__.py", "from ..eval import report\nfrom . import train\nimport torch, datasets, palatable"),
        ("__main__.py", "from .cli import main"),
        ("rewards/zoo.py", "from ..datasets.shapes.oracle import read\nfrom ..training import loop"),
    ],
)
def test_what_the_house_allows_passes(tmp_path: Path, file: str, line: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(line)
    assert faults(tmp_path, [Path(file)]) == []
