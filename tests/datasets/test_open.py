from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from palate.datasets.group import Group
from palate.datasets.open import FORMATS, detect_format, open_groups, open_prompts
from palate.datasets.parquet import write_groups
from palate.errors import UserError


@pytest.fixture
def sources(tmp_path, picture):
    """One small set in each format; each holds one pair with the prompt `a cat`."""
    for name in ("table", "hpd", "imagereward", "folders/w", "folders/l"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.png").write_bytes(picture(0))
        (tmp_path / name / "b.png").write_bytes(picture(1))
    write_groups([Group("k", "a cat", (picture(0), picture(1)), (1, 0))], tmp_path / "parquet")
    (tmp_path / "table" / "t.csv").write_text("prompt,chosen,rejected\na cat,a.png,b.png\n")
    row = {"prompt": "a cat", "image_path": ["a.png", "b.png"], "rank": [1, 2]}
    (tmp_path / "hpd" / "test.json").write_text(json.dumps([row]))
    rows = [{"prompt_id": "1", "prompt": "a cat", "rank": n, "image_path": f"{'ab'[n]}.png"} for n in range(2)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "imagereward" / "metadata-test.parquet")
    (tmp_path / "folders" / "l" / "b.png").unlink()
    (tmp_path / "folders" / "w" / "a.txt").write_text("a cat")
    (tmp_path / "folders" / "w" / "b.png").unlink()
    row = {"caption": "a cat", "jpg_0": picture(0), "jpg_1": picture(1), "label_0": 1.0, "label_1": 0.0}
    (tmp_path / "pickapic" / "data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "pickapic" / "data" / "train-00000-of-00001.parquet")
    return tmp_path


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_is_told_by_what_is_there(sources, format, picture):
    assert detect_format(sources / format) == format
    (group,) = open_groups(sources / format)
    assert group.prompt == "a cat"
    assert group.labels[0] > group.labels[1]
    assert group.candidates[0] == picture(0)
    assert list(open_prompts(sources / format)) == ["a cat"]


@pytest.mark.parametrize(
    ("path", "format"),
    [
        ("parquet/groups-00000.parquet", "parquet"),
        ("parquet/*.parquet", "parquet"),
        ("pickapic/data/train-00000-of-00001.parquet", "pickapic"),
        ("table/t.csv", "table"),
        ("hpd/test.json", "hpd"),
        ("imagereward/metadata-test.parquet", "imagereward"),
    ],
)
def test_files_and_patterns_too(sources, path, format):
    assert detect_format(sources / path) == format
    assert [group.prompt for group in open_groups(str(sources / path))] == ["a cat"]


def test_what_cannot_be_told_lists_the_formats(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    pq.write_table(pa.table({"url": ["x"]}), tmp_path / "other.parquet")
    for path in ("set", "notes.txt", "other.parquet"):
        with pytest.raises(UserError, match=r"cannot tell what .*imagereward: ") as caught:
            open_groups(tmp_path / path)
        assert all(format in str(caught.value) for format in FORMATS)


def test_absent_sources_and_unknown_formats_are_refused_at_once(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        open_groups(tmp_path / "absent")
    with pytest.raises(UserError, match="does not exist"):
        open_groups(tmp_path / "absent", "parquet")
    with pytest.raises(UserError, match="unknown format 'zip': choose one of parquet, pickapic"):
        open_groups(tmp_path, "zip")
    with pytest.raises(UserError, match="from the hub only"):
        open_groups("owner/name", "table")


def test_groups_on_the_hub_stream(sources, monkeypatch):
    import datasets as hf_datasets

    original, file = hf_datasets.load_dataset, str(sources / "parquet" / "*.parquet")
    monkeypatch.setattr(
        hf_datasets,
        "load_dataset",
        lambda *_, **__: original("parquet", data_files=file, split="train", streaming=True),
    )
    local = list(open_groups(sources / "parquet"))
    assert list(open_groups("owner/my-groups")) == local
