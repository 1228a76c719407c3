"""`palate score`: the tables, the list, and the mistakes that it answers."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from palate.cli import main


@pytest.fixture
def score(monkeypatch, capsys, tmp_path):
    """`score("pictures", ...)` gives the exit code, stdout and stderr, in a folder with three pictures."""
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    Path("pictures").mkdir()
    rows = []
    for number, colour in enumerate(["red", "lime", "blue"]):
        Image.new("RGB", (16, 16), colour).save(f"pictures/{colour}.png")
        rows.append({"image": f"{colour}.png", "prompt": "a photo of a red circle", "wish": f"wish {number}"})
    Path("pictures/images.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["palate", "score", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0), *capsys.readouterr()

    return call


def test_the_list_tells_what_the_numbers_are(score):
    code, out, _ = score("--list")
    assert code == 0
    line = next(line for line in out.splitlines() if line.split()[:1] == ["hpsv2.1"])
    for part in ("image", "yes", "0.13 to 0.34", "Apache-2.0", "2.0"):
        assert part in line


def test_scores_and_then_nothing_more_to_do(score):
    Path("pictures/lime.png").write_bytes(b"no picture")
    code, _, err = score("pictures", "--with", "shapes_oracle, sharpness", "--out", "scores")
    assert code == 0, err
    assert "no score: lime.png: not an image of a format that is read: PNG, " in err
    assert err.splitlines()[-2:] == [
        "3 images: shapes_oracle 2 new, 1 without a score; sharpness 2 new, 1 without a score",
        "scores/scores.parquet",
    ]
    found = pq.read_table("scores/scores.parquet").to_pylist()
    assert [row["image"] for row in found] == ["red.png", "lime.png", "blue.png"]
    assert [row["sharpness"] for row in found][::2] == [0.0, 0.0]
    code, _, err = score("pictures", "--with", "shapes_oracle,sharpness", "--out", "scores")
    assert (code, "shapes_oracle 0 new" in err) == (0, True)


def test_shards_and_a_column_of_prompts(score):
    arguments = ("pictures", "--with", "sharpness", "--prompts", "wish", "--batch-size", 1)
    code, _, err = score(*arguments, "--shard", "2/2")
    assert (code, err.splitlines()[-1]) == (0, "the tables are written when the other shards are done")
    assert not Path("scores/scores.jsonl").exists()
    code, _, err = score(*arguments, "--shard", "1/2")
    assert (code, err.splitlines()[-1]) == (0, "scores/scores.parquet")
    found = [json.loads(line) for line in Path("scores/scores.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in found] == ["wish 0", "wish 1", "wish 2"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("pictures", "--with", "pickscor"), "there is no scorer 'pickscor'; did you mean pickscore?"),
        (("nowhere", "--with", "sharpness"), "nowhere does not exist; give a folder"),
        (("empty", "--with", "sharpness"), "empty holds no images"),
        (("e.csv", "--with", "pickscore"), "e.csv holds no images: it has no rows"),
        (("*.gif", "--with", "sharpness"), "no images match '*.gif'"),
        (("loose", "--with", "pickscore,sharpness"), "loose has no prompts, and pickscore need them; give --prompts"),
        (("pictures", "--with", "pickscore", "--prompts", "nix"), "the prompts 'nix' are neither a file nor a column"),
        (("pictures", "--with", "hpsv2.1", "--weights", "hpsv2.1=none.pt"), "none.pt does not exist; give the path of"),
        (("pictures", "--with", "pickscore", "--weights", "pickscore=none"), "none cannot be loaded as a CLIP model"),
        (("pictures", "--with", "imagereward"), "ImageReward.pt cannot be taken from THUDM/ImageReward on the hub"),
        (
            ("pictures", "--with", "hpsv2.1", "--weights", "hpsv2.1.head=x"),
            "hpsv2.1 has no asset 'head'; it has",
        ),
        (
            ("pictures", "--with", "hpsv2.1", "--weights", "hpsv2.1.antialias=no"),
            "--weights hpsv2.1.antialias is 'no'; it is true or false",
        ),
        (
            ("pictures", "--with", "vlm_judge", "--weights", "vlm_judge.max_tokens=1.5"),
            "--weights vlm_judge.max_tokens is '1.5'; it is a whole number",
        ),
        (("pictures", "--with", "mps", "--weights", "mps.threshold=a"), "--weights mps.threshold is 'a'; it is a numb"),
        (("pictures", "--with", "mps", "--weights", "mps.threshold=2"), "mps's threshold is 2.0; it is below 1"),
        (("pictures", "--with", "hpsv2", "--weights", "hpsv2=me/mine"), "me/mine does not exist; as a hub id: HPS_v2"),
        (("pictures", "--with", "pickscore", "--weights", "nonsense"), "--weights is 'nonsense'; it is NAME=PATH"),
        (
            ("pictures", "--with", "pickscore", "--weights", "pickscore=a", "--weights", "pickscore.weights=b"),
            "--weights names the weights of pickscore twice; give a or b",
        ),
        (("pictures", "--with", "sharpness", "--dtype", "int8"), "--dtype is 'int8'; it is float32"),
        (("pictures", "--with", "sharpness", "--shard", "3/2"), "--shard is '3/2'; it is I/N"),
        (("pictures",), "name the images and the scorers"),
        ((), "name the images and the scorers"),
    ],
)
def test_a_users_mistake_is_one_line(score, arguments, told):
    Path("empty").mkdir()
    Path("e.csv").write_text("image,prompt\n")
    Path("loose").mkdir()
    Image.new("RGB", (9, 9)).save("loose/a.png")
    code, _, err = score(*arguments)
    assert code == 2
    assert err.splitlines()[-1].startswith(f"palate: {told}"), err
    assert "Traceback" not in err
    assert not Path("scores").exists()


def test_processes_of_one_launch_share_the_pictures_and_the_last_writes_the_tables(score, monkeypatch):
    assert score("pictures", "--with", "sharpness", "--out", "alone", "--batch-size", 1)[0] == 0
    monkeypatch.setenv("WORLD_SIZE", "2")
    told = []
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        code, _, err = score("pictures", "--with", "sharpness", "--out", "shared", "--batch-size", 1)
        assert code == 0
        told.append(err)
    assert "1 images: sharpness 1 new" in told[0]
    assert "scoring:" not in told[0]
    assert "2 images: sharpness 2 new" in told[1]
    assert "scoring: 2 of 2" in told[1]
    assert Path("shared/scores.parquet").read_bytes() == Path("alone/scores.parquet").read_bytes()


def test_scores_of_an_earlier_run_are_reused(score):
    assert score("pictures", "--with", "sharpness", "--out", "first")[0] == 0
    assert "sharpness 0 new" in score("pictures", "--with", "sharpness", "--out", "second", "--reuse", "first")[2]
    assert score("pictures", "--with", "sharpness", "--reuse", "none")[0] == 2


def test_a_table_that_is_no_list_of_the_pictures_is_told_and_not_read(score):
    Path("pictures/images.jsonl").rename("pictures/notes.jsonl")
    Path("pictures/notes.jsonl").write_text('{"who": "me"}')
    code, _, err = score("pictures", "--with", "sharpness")
    assert code == 0, err
    assert err.startswith("pictures/notes.jsonl is not read: it has no column image or file_name")
    code, _, err = score("pictures", "--with", "pickscore")
    assert (code, "notes.jsonl is not read" in err, "pictures has no prompts" in err) == (2, True, True)


def test_tables_that_are_passed_over_are_named_where_prompts_are_needed(score):
    for name in ("metadata.csv", "other.csv"):
        Path("pictures", name).write_text("file_name,text\n")
    Path("pictures/images.jsonl").unlink()
    code, _, err = score("pictures", "--with", "pickscore")
    tables = "pictures/metadata.csv, pictures/other.csv"
    assert code == 2
    assert err.splitlines() == [
        "palate: pictures has no prompts, and pickscore need them; give --prompts FILE or COLUMN; "
        f"tables there that are not read unasked: {tables}"
    ]
