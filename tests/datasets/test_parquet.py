from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import tracemalloc
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from palate.datasets.group import Group
from palate.datasets.parquet import is_unfinished, read_columns, read_groups, write_groups, written_keys
from palate.datasets.skips import SkipLog
from palate.errors import PalateError, UserError

TEXT = st.text(max_size=20)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def groups(draw) -> Group:
    k = draw(st.integers(1, 5))

    def each(values):
        return draw(st.tuples(*[values] * k))

    def maybe(values):
        return draw(st.none() | st.tuples(*[values] * k))

    names = draw(st.none() | st.lists(st.text(min_size=1, max_size=5), unique=True, max_size=3))
    return Group(
        key=draw(st.text(min_size=1, max_size=10)),
        prompt=draw(TEXT),
        candidates=each(st.binary(max_size=30)),
        labels=each(NUMBER),
        captions=maybe(TEXT.filter(str.strip)),
        aspects=None if names is None else {name: each(NUMBER) for name in names},
        source=draw(st.none() | TEXT),
        model=maybe(st.none() | TEXT),
        seed=maybe(st.none() | st.integers(-(2**63), 2**63 - 1)),
        rater=draw(st.none() | TEXT),
    )


def small(number: int, size: int = 10) -> Group:
    return Group(f"g{number}", f"prompt {number}", (bytes([number % 256]) * size, b"loser"), (1.0, 0.0))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(st.lists(groups(), min_size=1, max_size=6))
def test_what_is_written_is_read_back(tmp_path_factory, written):
    folder = tmp_path_factory.mktemp("set")
    write_groups(written, folder, row_group_rows=2)
    assert list(read_groups(folder)) == written


def test_an_unrated_aspect_comes_back_unrated(tmp_path):
    write_groups([Group("k", "p", (b"a", b"b"), (1, 0), aspects={"style": (np.nan, 2.0)})], tmp_path / "set")
    (group,) = read_groups(tmp_path / "set")
    assert np.isnan(group.aspects["style"][0])
    assert group.aspects["style"][1] == 2.0


def test_datasets_reads_the_shards_and_decodes_the_pictures_without_palate(tmp_path, picture):
    pair = Group("k", "a cat", (picture(0, 24, 16), picture(1)), (1.0, 0.0), aspects={"style": (2.0, 3.0)}, seed=(7, 8))
    write_groups([pair, replace(pair, key="l")], tmp_path / "set")
    code = f"""
import os, sys
os.environ["HF_DATASETS_CACHE"] = {str(tmp_path / "cache")!r}
import datasets
files = {str(tmp_path / "set" / "*.parquet")!r}
rows = datasets.load_dataset("parquet", data_files=files, split="train")
row = rows.select([0])[0]
assert len(rows) == 2 and not any(name.startswith("palate") for name in sys.modules)
assert [image.size for image in row["candidates"]] == [(24, 16), (16, 16)], row
assert row["labels"] == [1.0, 0.0] and row["seed"] == [7, 8] and row["captions"] is None
assert row["aspects"] == [{{"name": "style", "values": [2.0, 3.0]}}], row["aspects"]
stream = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
assert [row["candidates"][0].size for row in stream] == [(24, 16)] * 2
sys.stdout.flush()
os._exit(0)  # pyarrow's reading threads may abort an interpreter that shuts down (huggingface/datasets#7566)
"""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_set_that_datasets_wrote_again_is_still_a_set(tmp_path, picture):
    hf_datasets = pytest.importorskip("datasets")
    pair = Group("k", "a cat", (picture(0), picture(1)), (1.0, 0.0), model=("a", None))
    write_groups([pair], tmp_path / "set")
    rows = hf_datasets.Dataset.from_parquet(str(tmp_path / "set" / "*.parquet"), cache_dir=str(tmp_path / "cache"))
    rows.to_parquet(str(tmp_path / "again.parquet"))
    assert list(read_groups(tmp_path / "again.parquet")) == [pair]


def test_shards_are_cut_by_size_and_row_groups_by_rows(tmp_path):
    written = write_groups(map(small, range(100)), tmp_path / "set", row_group_rows=10, shard_bytes=3000)
    assert written.groups == 100
    assert len(written.shards) > 2
    assert written.bytes == sum(shard.stat().st_size for shard in written.shards)
    assert [shard.name for shard in written.shards][:2] == ["groups-00000.parquet", "groups-00001.parquet"]
    first = pq.ParquetFile(written.shards[0]).metadata
    assert {first.row_group(index).num_rows for index in range(first.num_row_groups)} == {10}
    assert [group.key for group in read_groups(tmp_path / "set")] == [f"g{number}" for number in range(100)]


def test_the_writer_holds_a_row_group_not_the_set(tmp_path):
    size, count = 200_000, 200  # 40 MB
    pool = pa.default_memory_pool()
    before = pool.bytes_allocated()
    peak = 0

    def source():
        nonlocal peak
        for number in range(count):
            yield small(number, size)
            peak = max(peak, pool.bytes_allocated() - before + tracemalloc.get_traced_memory()[0])

    tracemalloc.start()
    try:
        write_groups(source(), tmp_path / "set", row_group_bytes=1 << 20, shard_bytes=8 << 20)
    finally:
        tracemalloc.stop()
    assert peak < 10e6


def test_the_reader_holds_a_few_rows_even_of_one_large_row_group(tmp_path):
    size, count = 200_000, 200
    write_groups(
        (small(n, size) for n in range(count)), tmp_path / "set", row_group_bytes=1 << 30, row_group_rows=count
    )
    pool = pa.default_memory_pool()
    before, peak = pool.bytes_allocated(), 0
    tracemalloc.start()
    try:
        for number, group in enumerate(read_groups(tmp_path / "set")):
            assert group.key == f"g{number}"
            peak = max(peak, pool.bytes_allocated() - before + tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert number == count - 1
    assert peak < 20e6  # 16 rows of 0.2 MB, as Arrow and as Python


def test_columns_are_read_without_pictures(tmp_path):
    write_groups(map(small, range(3)), tmp_path / "set")
    assert list(read_columns(tmp_path / "set", "key", "labels"))[1] == {"key": "g1", "labels": [1.0, 0.0]}


def test_an_error_of_the_source_keeps_what_came_before_it(tmp_path):
    def source():
        yield from map(small, range(7))
        raise RuntimeError("the builder's model ran out of memory")

    with pytest.raises(RuntimeError, match="ran out"):
        write_groups(source(), tmp_path / "set", row_group_rows=2)
    assert len(list(read_groups(tmp_path / "set"))) == 7
    assert is_unfinished(tmp_path / "set")
    assert written_keys(tmp_path / "set") == {f"g{number}": 1 for number in range(7)}
    write_groups(map(small, range(12)), tmp_path / "set", mode="resume")
    assert [group.key for group in read_groups(tmp_path / "set")] == [f"g{number}" for number in range(12)]
    assert not is_unfinished(tmp_path / "set")


def test_a_killed_writer_leaves_whole_shards_and_can_go_on(tmp_path):
    code = f"""
import time
from palate.datasets.group import Group
from palate.datasets.parquet import write_groups
def source():
    for number in range(10_000):
        time.sleep(0.001)
        yield Group(f"g{{number}}", "p", (b"x" * 1000, b"y"), (1, 0))
write_groups(source(), {str(tmp_path / "set")!r}, row_group_rows=8, shard_bytes=40_000)
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.time() + 60
    while len(list((tmp_path / "set").glob("*.parquet"))) < 3 and time.time() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = [group.key for group in read_groups(tmp_path / "set")]
    assert len(kept) >= 3 * 32
    assert kept == [f"g{number}" for number in range(len(kept))]
    assert is_unfinished(tmp_path / "set")
    (tmp_path / "set" / ".groups-00009.parquet.tmp").write_bytes(b"half a shard")
    total = len(kept) + 5
    written = write_groups(map(small, range(total)), tmp_path / "set", mode="resume")
    assert written.groups == 5
    assert [group.key for group in read_groups(tmp_path / "set")] == [f"g{number}" for number in range(total)]
    assert not list((tmp_path / "set").glob(".*.tmp"))


def test_a_folder_in_use_is_refused_unless_asked(tmp_path):
    write_groups(map(small, range(9)), tmp_path / "set", shard_bytes=1, row_group_rows=1)
    with pytest.raises(UserError, match="not empty"):
        write_groups(map(small, range(2)), tmp_path / "set")
    assert len(list(read_groups(tmp_path / "set"))) == 9
    (tmp_path / "set" / "notes.txt").write_text("mine")
    write_groups(map(small, range(2)), tmp_path / "set", mode="overwrite")
    assert len(list(read_groups(tmp_path / "set"))) == 2
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == ["groups-00000.parquet", "notes.txt"]


@pytest.mark.parametrize("name", ["scores.parquet", "groups-1.parquet", "train-groups-00000.parquet"])
def test_a_parquet_file_that_is_not_palates_is_never_overwritten(tmp_path, name):
    write_groups(map(small, range(9)), tmp_path / "set")
    (tmp_path / "set" / name).write_bytes(b"a year's work")
    before = {path.name: path.read_bytes() for path in (tmp_path / "set").iterdir()}
    with pytest.raises(UserError, match=rf"set holds {name}, which is no shard of palate's: move it, or name another"):
        write_groups(map(small, range(2)), tmp_path / "set", mode="overwrite")
    assert {path.name: path.read_bytes() for path in (tmp_path / "set").iterdir()} == before


def test_a_full_disk_is_one_clear_error_and_leaves_no_half_shard(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PalateError, match="disk is full") as caught:
        write_groups(map(small, range(2)), tmp_path / "set")
    assert caught.value.exit_code == 1
    assert [path.name for path in (tmp_path / "set").iterdir()] == [".unfinished"]


def test_a_cut_or_foreign_file_is_one_clear_error(tmp_path):
    written = write_groups(map(small, range(50)), tmp_path / "set")
    shard = written.shards[0]
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    with pytest.raises(UserError, match="not a whole Parquet file"):
        list(read_groups(shard))
    pq.write_table(pa.table({"url": ["x"]}), tmp_path / "other.parquet")
    with pytest.raises(UserError, match="no column key, prompt, candidates, labels; it has url"):
        list(read_groups(tmp_path / "other.parquet"))
    with pytest.raises(UserError, match="no Parquet files"):
        list(read_groups(tmp_path / "nothing"))


def test_a_row_that_is_no_group_is_logged_and_skipped(tmp_path):
    rows = {
        "key": ["good", "bad", "also good", "promptless"],
        "prompt": ["p", "p", "", None],
        "candidates": [
            [{"bytes": b"a", "path": None}],
            [{"bytes": None, "path": "a.png"}],
            [{"bytes": b"c", "path": ""}],
            [{"bytes": b"d", "path": ""}],
        ],
        "labels": [[1.0], [1.0], [0.0], [0.0]],
    }
    pq.write_table(pa.table(rows), tmp_path / "foreign.parquet")
    log = SkipLog()
    assert [group.key for group in read_groups(tmp_path / "foreign.parquet", log=log)] == ["good", "also good"]
    assert str(log.examples[0]) == "bad: bad row (a candidate holds a path in place of its bytes)"


def test_text_groups_have_their_own_features(tmp_path):
    write_groups([Group("k", "q", (b"yes", b"no"), (1, 0))], tmp_path / "set", media="text")
    assert next(iter(read_groups(tmp_path / "set"))).candidates == (b"yes", b"no")
    with pytest.raises(ValueError, match="media must be one of"):
        write_groups([small(1)], tmp_path / "other", media="video")


def test_a_folder_of_split_folders_is_read_by_split(tmp_path):
    for number, split in enumerate(("train", "validation")):
        write_groups([small(number)], tmp_path / "set" / split)
    assert [group.key for group in read_groups(tmp_path / "set", split="validation")] == [small(1).key]
    with pytest.raises(UserError, match="holds the splits train, validation: choose one"):
        list(read_groups(tmp_path / "set"))


def test_groups_that_share_a_key_are_all_there_after_an_interruption(tmp_path):
    """A table's `id` is often the prompt's, so that many rows have it."""
    groups = [replace(small(number), key=f"g{number // 4}", prompt=str(number)) for number in range(12)]

    def source():
        yield from groups[:6]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_groups(source(), tmp_path / "set", row_group_rows=2)
    assert written_keys(tmp_path / "set") == {"g0": 4, "g1": 2}
    write_groups(groups, tmp_path / "set", mode="resume")
    assert [group.prompt for group in read_groups(tmp_path / "set")] == [str(number) for number in range(12)]
