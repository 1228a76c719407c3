from __future__ import annotations

import json

import pytest

from palate.datasets.convert import convert_groups
from palate.datasets.parquet import read_groups
from palate.errors import UserError


@pytest.fixture
def source(tmp_path, picture):
    root = tmp_path / "mine"
    root.mkdir()
    rows = []
    for number in range(6):
        for side in "wl":
            (root / f"{number} {side}.jpg").write_bytes(picture(10 * number + (side == "l"), 64, 64, "JPEG"))
        rows.append(
            {"key": f"k{number}", "prompt": f"p{number}", "chosen": f"{number} w.jpg", "rejected": f"{number} l.jpg"}
        )
    whole = (root / "2 l.jpg").read_bytes()
    (root / "2 l.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "4 w.jpg").write_bytes(b"")
    (root / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


def test_an_unreadable_picture_takes_its_group_out_and_shifts_no_other(source, tmp_path):
    counted = []
    done = convert_groups(source, tmp_path / "out", on_group=counted.append)
    assert done.written.groups == 4
    assert [str(skipped) for skipped in done.skipped.examples] == [
        "k2: unreadable image (candidate 1: truncated)",
        "k4: unreadable image (candidate 0: 0 bytes)",
    ]
    assert counted == [1, 2, 3, 4]
    for group in read_groups(tmp_path / "out"):
        number = group.key[1:]
        assert group.prompt == f"p{number}"
        assert group.candidates == (
            (source / f"{number} w.jpg").read_bytes(),
            (source / f"{number} l.jpg").read_bytes(),
        )


def test_limit_and_unverified(source, tmp_path):
    assert convert_groups(source, tmp_path / "three", limit=3).written.groups == 2
    assert convert_groups(source, tmp_path / "all", verify=False).written.groups == 6


def test_a_stopped_conversion_goes_on(source, tmp_path):
    class StopError(Exception):
        pass

    def stop(count: int) -> None:
        if count == 3:
            raise StopError

    with pytest.raises(StopError):
        convert_groups(source, tmp_path / "out", on_group=stop)
    assert [group.key for group in read_groups(tmp_path / "out")] == ["k0", "k1", "k3"]
    assert convert_groups(source, tmp_path / "out", mode="resume").written.groups == 1
    assert [group.key for group in read_groups(tmp_path / "out")] == ["k0", "k1", "k3", "k5"]


def test_what_cannot_be_done_is_refused_and_leaves_no_trace(source, tmp_path):
    for name in list(source.glob("*.jpg")):
        name.write_bytes(b"")
    with pytest.raises(UserError, match=r"nothing to convert in .*6 unreadable image"):
        convert_groups(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_set_is_never_written_over_itself(source, tmp_path):
    convert_groups(source, tmp_path / "out")
    for inside in (tmp_path / "out", f"{tmp_path}/out/*.parquet", tmp_path / "out" / "groups-00000.parquet"):
        with pytest.raises(UserError, match="the source itself"):
            convert_groups(inside, tmp_path / "out", mode="overwrite")
    assert len(list(read_groups(tmp_path / "out"))) == 4


def test_converting_twice_changes_nothing(source, tmp_path):
    convert_groups(source, tmp_path / "one")
    convert_groups(tmp_path / "one", tmp_path / "two")
    assert list(read_groups(tmp_path / "one")) == list(read_groups(tmp_path / "two"))


def test_a_set_is_never_written_into_its_source(source):
    before = sorted(source.rglob("*"))
    for inside in (source / "out", source / "deep" / "out"):
        with pytest.raises(UserError, match=r"out lies inside the source .*: name a folder outside"):
            convert_groups(source, inside)
    assert sorted(source.rglob("*")) == before


def test_where_no_row_is_sound_the_first_is_named(tmp_path, picture):
    (tmp_path / "a.jpg").write_bytes(picture(0, 64, 64, "JPEG"))
    row = {"prompt": "p", "images": ["a.jpg", "a.jpg"], "labels": [1.0, float("nan")]}
    (tmp_path / "t.jsonl").write_text("\n".join([json.dumps(row)] * 8))
    told = r"8 bad row; the first is t.jsonl:1: bad row \(.* has a label that is not finite: \[1.0, nan\]\); correct"
    with pytest.raises(UserError, match=told):
        convert_groups(tmp_path / "t.jsonl", tmp_path / "out")
    assert not (tmp_path / "out").exists()
