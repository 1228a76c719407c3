from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from palate.datasets.pickapic import read_pickapic
from palate.datasets.skips import SkipLog
from palate.errors import UserError

# column types of yuvalkirstain/pickapic_v2
SCHEMA = pa.schema(
    [
        ("are_different", pa.bool_()),
        ("best_image_uid", pa.string()),
        ("caption", pa.string()),
        ("has_label", pa.bool_()),
        ("image_0_uid", pa.string()),
        ("image_1_uid", pa.string()),
        ("jpg_0", pa.binary()),
        ("jpg_1", pa.binary()),
        ("label_0", pa.float64()),
        ("label_1", pa.float64()),
        ("model_0", pa.string()),
        ("model_1", pa.string()),
        ("ranking_id", pa.int64()),
        ("user_id", pa.int64()),
    ]
)


@pytest.fixture
def rows(picture):
    def row(number: int, labels=(1.0, 0.0), has_label=True, **changes) -> dict:
        jpegs = picture(2 * number, format="JPEG"), picture(2 * number + 1, format="JPEG")
        values = {"caption": f"prompt {number}", "has_label": has_label, "jpg_0": jpegs[0], "jpg_1": jpegs[1]}
        values |= {"label_0": labels[0], "label_1": labels[1], "model_0": "sdxl", "model_1": "sd15", "user_id": 7}
        values |= {"are_different": labels[0] != labels[1], "ranking_id": 5}
        return {name: values.get(name) for name in SCHEMA.names} | changes

    return [
        row(0),
        row(1, (0.0, 1.0)),
        row(2, (0.5, 0.5)),
        row(3, (0.0, 0.0), has_label=False),
        row(4, jpg_1=None),
        row(5),
    ]


def save(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)


def test_rows_become_pairs_in_published_order_and_ties_stay_ties(tmp_path, rows):
    file = tmp_path / "data" / "train-00000-of-00002-0a1b.parquet"
    save(file, rows)
    log = SkipLog()
    groups = list(read_pickapic(file, log=log))
    assert [group.labels for group in groups] == [(1, 0), (0, 1), (0.5, 0.5), (1, 0)]
    assert [group.is_tie for group in groups] == [False, False, True, False]
    assert [group.key.rsplit(":", 1)[1] for group in groups] == ["0", "1", "2", "5"]
    assert groups[3].prompt == "prompt 5"
    assert groups[3].candidates == (rows[5]["jpg_0"], rows[5]["jpg_1"])
    assert groups[0].model == ("sdxl", "sd15")
    assert groups[0].rater == "7"
    assert log.counts == {"no label": 1, "missing file": 1}


def test_splits_in_one_folder_are_never_mixed(tmp_path, rows):
    save(tmp_path / "data" / "train-00000-of-00002-0a1b.parquet", rows[:2])
    save(tmp_path / "data" / "train-00001-of-00002-0a1c.parquet", rows[2:3])
    save(tmp_path / "data" / "test_unique-00000-of-00001-ff.parquet", rows[5:])
    with pytest.raises(UserError, match="holds the splits test_unique, train: choose one"):
        list(read_pickapic(tmp_path))
    assert len(list(read_pickapic(tmp_path, split="train"))) == 3
    assert [group.prompt for group in read_pickapic(tmp_path, split="test_unique")] == ["prompt 5"]
    assert len(list(read_pickapic(f"{tmp_path}/data/train-*.parquet"))) == 3
    with pytest.raises(UserError, match=r"no split 'dev'.*test_unique, train"):
        list(read_pickapic(tmp_path, split="dev"))


def test_the_variant_without_pictures_is_refused(tmp_path):
    pq.write_table(pa.table({"caption": ["x"], "label_0": [1.0], "label_1": [0.0]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="no column jpg_0, jpg_1"):
        list(read_pickapic(tmp_path))


def test_a_hub_id_streams_with_undecoded_pictures(tmp_path, rows, monkeypatch):
    import datasets as hf_datasets

    save(tmp_path / "a.parquet", rows)
    calls = []
    original = hf_datasets.load_dataset

    def offline(name, split, streaming):
        calls.append((name, split, streaming))
        return original("parquet", data_files=str(tmp_path / "a.parquet"), split="train", streaming=True)

    monkeypatch.setattr(hf_datasets, "load_dataset", offline)
    log = SkipLog()
    groups = list(read_pickapic("owner/pickapic_v2", split="validation", log=log))
    assert calls == [("owner/pickapic_v2", "validation", True)]
    assert [group.key for group in groups] == ["validation:0", "validation:1", "validation:2", "validation:5"]
    assert groups[0].candidates == (rows[0]["jpg_0"], rows[0]["jpg_1"])
    assert log.total == 2


def test_a_hub_that_cannot_be_reached_is_one_clear_error(monkeypatch):
    import datasets as hf_datasets

    def unreachable(*_, **__):
        raise ConnectionError("no route to host\nlong trace")

    monkeypatch.setattr(hf_datasets, "load_dataset", unreachable)
    with pytest.raises(UserError, match=r"'owner/set' is not on this disk.*no route to host\).*network") as caught:
        next(read_pickapic("owner/set"))
    assert "\n" not in str(caught.value)
