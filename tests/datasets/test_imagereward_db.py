from __future__ import annotations

import json
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from palate.datasets.imagereward_db import read_imagereward_db
from palate.datasets.open import open_groups
from palate.datasets.skips import SkipLog
from palate.errors import UserError


def row(prompt_id: str, name: str, rank: int, rating: int | None = 4) -> dict:
    return {
        "image_path": f"images/train/train_1/{name}",
        "prompt_id": prompt_id,
        "prompt": f"prompt {prompt_id}",
        "classification": "Food",
        "image_amount_in_total": 3,
        "rank": rank,
        "overall_rating": rating,
        "image_text_alignment_rating": rank + 1,
        "fidelity_rating": rank + 2,
    }


# Neither neighbours nor complete in order, as after a shuffle; ranks have gaps and ties.
ROWS = [
    row("p1", "a.webp", 2),
    row("p2", "d.webp", 1),
    row("p1", "b.webp", 1, None),
    row("p3", "f.webp", 1),
    row("p2", "gone.webp", 5),
    row("p1", "c.webp", 2),
    row("p3", "g.webp", 4),
]


@pytest.fixture
def names(picture):
    return {f"{letter}.webp": picture(number, format="WEBP") for number, letter in enumerate("abcdfg")}


@pytest.mark.parametrize("form", ["zip", "extracted"])
def test_rows_of_one_prompt_are_one_group(tmp_path, names, form):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "metadata-train.parquet")
    folder = tmp_path / "images" / "train"
    (folder / "train_1").mkdir(parents=True)
    for name, data in names.items():
        (folder / "train_1" / name).write_bytes(data)
    if form == "zip":
        with zipfile.ZipFile(folder / "train_1.zip", "w") as archive:
            for name in names:
                archive.write(folder / "train_1" / name, f"train_1/{name}")
                (folder / "train_1" / name).unlink()
    log = SkipLog()
    groups = {group.key: group for group in read_imagereward_db(tmp_path, split="train", log=log)}
    assert list(groups) == ["p1", "p3"]
    assert groups["p1"].labels == (-2.0, -1.0, -2.0)
    assert groups["p1"].candidates == (names["a.webp"], names["b.webp"], names["c.webp"])
    assert groups["p1"].prompt == "prompt p1"
    assert groups["p1"].aspects["alignment"] == (3.0, 2.0, 3.0)
    assert groups["p1"].aspects["overall"][0] == 4.0
    assert groups["p1"].aspects["overall"][1] != groups["p1"].aspects["overall"][1]  # NaN: not rated
    assert groups["p3"].candidates == (names["f.webp"], names["g.webp"])
    assert [(skipped.key, skipped.reason) for skipped in log.examples] == [("p2", "missing file")]


def test_pictures_inside_the_table(tmp_path, names):
    rows = [
        {**row("p", name, rank), "image": {"bytes": data, "path": name}}
        for rank, (name, data) in enumerate(names.items(), start=1)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train-00000-of-00001.parquet")
    (group,) = read_imagereward_db(tmp_path)
    assert group.labels == (-1, -2, -3, -4, -5, -6)
    assert group.candidates == tuple(names.values())


def test_the_grouped_json(tmp_path, names):
    (tmp_path / "a.webp").write_bytes(names["a.webp"])
    (tmp_path / "b.webp").write_bytes(names["b.webp"])
    item = {"id": "0001", "prompt": "p", "generations": ["a.webp", "b.webp"], "ranking": [2, 1]}
    (tmp_path / "test.json").write_text(json.dumps([item]))
    (group,) = read_imagereward_db(tmp_path / "test.json")
    assert (group.key, group.labels) == ("0001", (-2.0, -1.0))
    assert [group.key for group in open_groups(tmp_path)] == ["0001"]  # the folder that holds nothing else


def test_a_null_prompt_is_a_bad_row(tmp_path, names):
    (tmp_path / "a.webp").write_bytes(names["a.webp"])
    item = {"id": "0001", "prompt": None, "generations": ["a.webp"], "ranking": [1]}
    (tmp_path / "test.json").write_text(json.dumps([item]))
    log = SkipLog()
    assert list(read_imagereward_db(tmp_path / "test.json", log=log)) == []
    assert "no prompt" in str(log.examples[0])


def test_a_cut_archive_and_other_columns_are_one_clear_error(tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "metadata-train.parquet")
    (tmp_path / "images" / "train").mkdir(parents=True)
    (tmp_path / "images" / "train" / "train_1.zip").write_bytes(b"PK half a file")
    with pytest.raises(UserError, match="not a whole zip file"):
        list(read_imagereward_db(tmp_path))
    pq.write_table(pa.table({"url": ["x"]}), tmp_path / "metadata-test.parquet")
    with pytest.raises(UserError, match="holds the splits test, train"):
        list(read_imagereward_db(tmp_path))
    with pytest.raises(UserError, match="not ImageRewardDB; it has the columns url"):
        list(read_imagereward_db(tmp_path, split="test"))


def test_rows_of_pictures_as_json_are_not_taken_for_hpd(tmp_path, names):
    for name in names:
        (tmp_path / "images/train/train_1").mkdir(parents=True, exist_ok=True)
        (tmp_path / "images/train/train_1" / name).write_bytes(names[name])
    (tmp_path / "train.json").write_text(json.dumps([row for row in ROWS if row["prompt_id"] == "p1"]))
    (group,) = open_groups(tmp_path / "train.json")
    assert (group.key, group.labels) == ("p1", (-2.0, -1.0, -2.0))
