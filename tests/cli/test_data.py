from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from palate.cli.data import app
from palate.datasets.parquet import read_groups
from palate.errors import UserError


def encoded(seed: int, format: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(buffer, format)
    return buffer.getvalue()


def make_set(root: Path, labels: list[tuple[float, float]], first_prompt: int = 0) -> Path:
    root.mkdir(parents=True)
    rows = []
    for number, (left, right) in enumerate(labels):
        for side in (0, 1):
            (root / f"{number} {side}.jpg").write_bytes(encoded(2 * number + side + 100 * first_prompt))
        pictures = {"image_0": f"{number} 0.jpg", "image_1": f"{number} 1.jpg"}
        rows.append({"prompt": f"кот {first_prompt + number}", **pictures, "label_0": left, "label_1": right})
    (root / "groups.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return call


def test_a_sound_set(run, tmp_path):
    make_set(tmp_path / "train", [(1, 0), (0, 1), (0.5, 0.5)])
    result = run("check", "train")
    assert result.exit_code == 0, result.output
    assert "2 readable groups that prefer something" in result.output
    assert "sound" in result.output
    assert Image.open(tmp_path / "contact_sheet.png").size[0] > 500


def test_json_for_machines_and_problems_as_exit_code(run, tmp_path):
    root = make_set(tmp_path / "train", [(1, 0), (0, 1), (1, 0)])
    (root / "1 0.jpg").write_bytes((root / "1 0.jpg").read_bytes()[:900])
    (root / "2 1.jpg").unlink()
    result = run("check", "train", "--json", "--no-sheet")
    assert result.exit_code == 1
    fields = json.loads(result.stdout)
    assert (fields["groups"], fields["unreadable_groups"], fields["preferences"]) == (2, 1, 1)
    assert fields["unreadable"][0]["key"] == "groups.jsonl:2"
    assert fields["skipped"] == {"missing file": 1}
    assert fields["contact_sheet"] is None
    assert not (tmp_path / "contact_sheet.png").exists()
    assert run("check", "train", "--quick", "--no-sheet", "--limit", 2).exit_code == 0


def test_problems_in_words(run, tmp_path):
    make_set(tmp_path / "ties", [(0.5, 0.5)])
    result = run("check", "ties", "--no-sheet")
    assert result.exit_code == 1
    assert "only ties" in result.output
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "t.csv").write_text("prompt,chosen,rejected\n")
    result = run("check", "empty")
    assert result.exit_code == 1
    assert "no groups: the set is empty" in result.output


def test_leaks_against_another_set(run, tmp_path):
    make_set(tmp_path / "train", [(1, 0), (0, 1), (1, 0)])
    make_set(tmp_path / "test", [(1, 0)], first_prompt=2)
    result = run("check", "train", "--no-sheet", "--against", "test")
    assert result.exit_code == 1
    assert "1 prompt also in test" in result.output


def test_convert_names_what_it_leaves_out_and_check_reads_it(run, tmp_path):
    root = make_set(tmp_path / "train", [(1, 0), (0, 1), (1, 0)])
    (root / "1 0.jpg").write_bytes(b"")
    result = run("convert", "train", "out")
    assert result.exit_code == 0, result.output
    assert "2 groups from table to 1 shard(s) in out" in result.output
    assert "groups.jsonl:2: unreadable image (candidate 0: 0 bytes)" in result.output
    assert [group.prompt for group in read_groups(tmp_path / "out")] == ["кот 0", "кот 2"]
    assert run("check", "out", "--no-sheet").exit_code == 0
    again = run("convert", "train", "out")
    assert isinstance(again.exception, UserError)
    assert "not empty" in str(again.exception)
    fields = json.loads(run("convert", "train", "out", "--overwrite", "--json").stdout)
    assert (fields["groups"], fields["skipped"]) == (2, {"unreadable image": 1})
    resumed = json.loads(run("convert", "train", "out", "--resume", "--json").stdout)
    assert resumed["groups"] == 0


def test_mistakes_reach_the_caller_as_user_errors(run, tmp_path):
    for arguments in (
        ("check", "absent"),
        ("check", tmp_path, "--format", "zip"),
        ("convert", "absent", "out"),
        ("convert", "absent", "out", "--overwrite", "--resume"),
    ):
        result = run(*arguments)
        assert isinstance(result.exception, UserError), arguments
    assert not (tmp_path / "out").exists()


def test_the_verb_loads_nothing_heavy():
    heavy = "torch pyarrow datasets diffusers transformers pydantic PIL numpy"
    code = f"import sys, palate.cli.data; print([name for name in {heavy!r}.split() if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
