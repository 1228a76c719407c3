"""The wheel holds the package's folders whole, and nothing of the tests, documents, examples and benchmarks."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

_BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


@pytest.fixture(scope="module")
def wheel(root: Path, tree: list[Path], tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of a copy of the tree: building in the tree itself would leave `build/` and reuse what lies there."""
    pytest.importorskip("setuptools", minversion="77")  # earlier ones do not know the licence's form
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    for file in tree:
        (copy / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / file, copy / file)
    command = [sys.executable, "-c", _BUILD, str(out)]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return zipfile.ZipFile(next(out.glob("palate-*.whl")))


@pytest.fixture(scope="module")
def packed(wheel: zipfile.ZipFile) -> set[str]:
    """The wheel's files, without its metadata."""
    return {name for name in wheel.namelist() if ".dist-info/" not in name}


def test_the_package_in_the_wheel_is_the_package_in_the_tree(packed: set[str], shipped: list[Path]) -> None:
    """Modules and data alike: recipes, tiny checkpoints, templates. A folder missing in pyproject shows here."""
    expected = {f"palate/{file.as_posix()}" for file in shipped}
    assert {"missing": sorted(expected - packed), "foreign": sorted(packed - expected)} == {
        "missing": [],
        "foreign": [],
    }


def test_git_ignores_no_module_of_the_package(root: Path, shipped: list[Path]) -> None:
    """A careless line in .gitignore (`build/` for `/build/`) hides a room from git, and so from every clone."""
    rooms = {file.parts[0] for file in shipped if len(file.parts) > 1}
    command = ["git", "ls-files", "--others", "--ignored", "--exclude-standard", "-z", "--", *sorted(rooms)]
    ignored = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.split("\0")
    assert [name for name in ignored if name.endswith((".py", ".yaml", ".safetensors"))] == []


def test_what_users_need_is_there(packed: set[str]) -> None:
    assert {"palate/__init__.py", "palate/__main__.py", "palate/errors.py"} <= packed
    assert {f"palate/t2i/recipes/tiny-{name}-dpo.yaml" for name in ("sdxl", "sd3")} <= packed
    assert {f"palate/t2i/tiny/{name}/model_index.json" for name in ("sdxl", "sd3")} <= packed
    assert "palate/datasets/__init__.py" not in packed


def test_command_version_and_licence(wheel: zipfile.ZipFile) -> None:
    about = {name.rsplit("/", 1)[-1]: wheel.read(name).decode() for name in wheel.namelist() if ".dist-info/" in name}
    assert "palate = palate.cli:main" in about["entry_points.txt"]
    assert "\nName: palate\n" in about["METADATA"]
    assert "\nLicense-Expression: Apache-2.0\n" in about["METADATA"]
    assert "Apache License" in about["LICENSE"]


def test_the_command_in_the_wheel_starts(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """From the unpacked wheel alone, far from the tree."""
    wheel.extractall(tmp_path)
    lines = [f"import sys; sys.path.insert(0, {str(tmp_path)!r}); sys.argv[1:] = ['recipe', 'list']"]
    lines += ["import palate.cli; print(palate.__file__); palate.cli.main()"]
    done = subprocess.run([sys.executable, "-I", "-c", "\n".join(lines)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path))
    assert "tiny-sdxl-dpo" in done.stdout
