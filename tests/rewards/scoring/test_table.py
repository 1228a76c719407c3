"""Tables are whole or not there, and nothing is left of those that were not finished."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from palate.errors import UserError
from palate.rewards.function import from_function
from palate.rewards.scorer import Scorer, scorer_of
from palate.rewards.scoring import batch, table
from palate.rewards.scoring.batch import score_images, score_in_passes


def side(name: str = "side") -> Scorer:
    return scorer_of(from_function(name, lambda prompt, picture: float(picture.width), "1", needs_prompts=False))


@pytest.fixture
def pictures(tmp_path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(4):
        Image.new("L", (4 + number, 4)).save(folder / f"{number}.png")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


WHOLE = [".log-0-of-1.lock", "log-0-of-1.jsonl", "scores.jsonl", "scores.meta.json", "scores.parquet"]


def test_an_error_leaves_the_old_tables_and_no_parts(pictures, tmp_path, monkeypatch):
    out = tmp_path / "out"
    score_images(pictures, [side()], out)
    before = {name: (out / name).read_bytes() for name in WHOLE[2:]}
    plain = table._rows

    def breaking(*args):
        yield next(plain(*args))
        assert len(names(out)) == len(WHOLE) + 2  # two parts are being written
        raise OSError("No space left on device")

    monkeypatch.setattr(table, "_rows", breaking)
    with pytest.raises(OSError, match="No space left"):
        score_images(pictures, [side(), side("other")], out)
    assert names(out) == WHOLE
    assert {name: (out / name).read_bytes() for name in WHOLE[2:]} == before


def test_parts_of_a_process_that_was_killed_are_gone_after_the_next_call(pictures, tmp_path, monkeypatch):
    def dying(*_):
        os.kill(os.getpid(), signal.SIGKILL)
        yield

    def child() -> None:
        table._rows = dying
        score_images(pictures, [side()], tmp_path / "out", workers=1)

    for _ in range(2):
        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        assert len([name for name in names(tmp_path / "out") if name.endswith(".part")]) == 2
    score_images(pictures, [side()], tmp_path / "out")
    assert names(tmp_path / "out") == WHOLE


def test_from_the_first_pass_to_the_tables_nobody_else_gets_the_log(pictures, tmp_path, monkeypatch):
    codes: list[int | None] = []

    def child() -> None:
        with pytest.raises(UserError, match=r"another process is writing .*log-0-of-1\.jsonl"):
            score_images(pictures, [side()], tmp_path / "out")

    def refused() -> None:
        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join(60)
        codes.append(process.exitcode)

    def second() -> list[Scorer]:
        refused()
        return [side("b")]

    plain = batch.write_tables
    monkeypatch.setattr(batch, "write_tables", lambda *args: refused() or plain(*args))
    done = score_in_passes(pictures, [lambda: [side("a")], second], tmp_path / "out")
    assert (done.new, codes) == ({"a": 4, "b": 4}, [0, 0])
    monkeypatch.undo()
    score_images(pictures, [side()], tmp_path / "out")  # now it is free


def test_the_shard_that_ends_last_sees_what_the_other_did_meanwhile(pictures, tmp_path):
    done = []

    def other(stage: str, images: int, total: int) -> None:
        done.append(score_images(pictures, [side()], tmp_path / "out", batch_size=2, shard=(1, 2)))

    last = score_images(pictures, [side()], tmp_path / "out", batch_size=2, shard=(0, 2), advance=other)
    assert [one.tables is not None for one in (*done, last)] == [True, True]


@pytest.mark.parametrize(("rows", "parts"), [(2, [2, 2]), (3, [3, 1]), (4, [4]), (5, [4])])
def test_rows_are_written_part_by_part_each_once(pictures, tmp_path, monkeypatch, rows, parts):
    monkeypatch.setattr(table, "_ROW_GROUP", rows)
    score_images(pictures, [side()], tmp_path / "out")
    with pq.ParquetFile(tmp_path / "out/scores.parquet") as file:
        assert [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)] == parts
        assert file.read().column("side").to_pylist() == [4, 5, 6, 7]


@pytest.mark.parametrize("count", [0, 1, 8, 9, 20])
def test_columns_from_buffers_are_what_pyarrow_makes_of_the_values(count):
    texts = ["", None, "a", "Ωμέγα 語", "x" * 300]
    numbers = [1.5, float("-inf"), 0.1, 3e38]  # no NaN, which is not like itself
    rows = [{"text": texts[i % 5], "number": numbers[i % 4], "none": None} for i in range(count)]
    schema = pa.schema([("text", pa.string()), ("number", pa.float32()), ("none", pa.string())])
    found = table._table(rows, schema)
    found.validate(full=True)
    assert found.equals(pa.Table.from_pylist(rows, schema))
