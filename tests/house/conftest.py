"""The tree as git sees it: what is tracked, and what is new and not ignored."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOT_SHIPPED = ("tests", "docs", "examples", "benchmarks")


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root, which is the package."""
    return ROOT


@pytest.fixture(scope="session")
def tree() -> list[Path]:
    """Every file of the working tree that git does not ignore, relative to the root."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("the tree is told by git, and this is no clone")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return sorted(path for name in listed.split("\0") if name and (ROOT / (path := Path(name))).is_file())


@pytest.fixture(scope="session")
def shipped(tree: list[Path]) -> list[Path]:
    """The files of the package's folders, and the modules at the root."""
    rooms = [path for path in tree if len(path.parts) > 1 and not path.parts[0].startswith(".")]
    inside = [path for path in rooms if path.parts[0] not in NOT_SHIPPED]
    return [path for path in tree if len(path.parts) == 1 and path.suffix == ".py"] + inside
