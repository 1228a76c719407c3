"""The folder `datasets` at the root must never be taken for Hugging Face's library of that name."""

from __future__ import annotations

import importlib.machinery
import subprocess
import sys
from pathlib import Path

_PROBE = """
import datasets, palate.datasets, palate.datasets.group
from importlib.util import find_spec
print(datasets.__file__)
print(find_spec("datasets").origin)       # how accelerate and transformers look for it
print(palate.datasets.__file__)
print(palate.datasets.group.__file__)
datasets.Dataset.from_dict({"a": [1]})
"""


def test_from_the_root_datasets_is_hugging_faces(root: Path) -> None:
    # `-c` puts the working folder first on the path, as `-m`, a notebook and an interactive session do.
    done = subprocess.run([sys.executable, "-c", _PROBE], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    theirs, found, ours, group = done.stdout.split()
    assert found == theirs
    assert not Path(theirs).resolve().is_relative_to(root / "datasets")
    assert ours == "None"  # a namespace has no file
    assert Path(group).resolve() == root / "datasets/group.py"


def test_the_folder_has_no_init(root: Path) -> None:
    assert not (root / "datasets/__init__.py").exists()


def test_no_other_folder_shadows_an_installed_library(root: Path, tree: list[Path]) -> None:
    """A regular package at the root wins over the installed one of its name; a namespace folder yields."""
    rooms = {file.parts[0] for file in tree if len(file.parts) == 2 and file.name == "__init__.py"}
    elsewhere = [place for place in sys.path if place and Path(place).resolve() != root]
    found = {
        room for room in rooms if (spec := importlib.machinery.PathFinder.find_spec(room, elsewhere)) and spec.origin
    }
    assert found == set()
