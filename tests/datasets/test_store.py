from __future__ import annotations

import pickle
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from operator import getitem

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from palate.datasets.group import Group
from palate.datasets.parquet import write_groups
from palate.datasets.store import GroupStore
from palate.errors import UserError


@pytest.fixture
def folder(tmp_path):
    groups = (Group(f"g{n}", f"p{n}", (b"%d" % n, b"l"), (1.0, float(n % 2))) for n in range(57))
    write_groups(groups, tmp_path / "set", row_group_rows=4, shard_bytes=2000)
    assert len(list((tmp_path / "set").glob("*.parquet"))) > 2
    return tmp_path / "set"


def keys_of(store: GroupStore, numbers: list[int]) -> list[str]:
    return [store[number].key for number in numbers]


def test_any_group_by_its_number(folder):
    store = GroupStore(folder)
    assert len(store) == 57
    assert keys_of(store, [40, 3, 0, 56, 4, 3, -1]) == ["g40", "g3", "g0", "g56", "g4", "g3", "g56"]
    assert [group.key for group in store] == [f"g{n}" for n in range(57)]
    for outside in (57, -58):
        with pytest.raises(IndexError):
            store[outside]


def test_opening_reads_no_row_and_an_index_reads_one_row_group(folder, monkeypatch):
    reads = []
    original = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda self, i, **k: reads.append(i) or original(self, i, **k)
    )
    store = GroupStore(folder)
    assert reads == []
    store[5], store[6], store[7]
    assert reads == [1]


def test_a_store_goes_to_other_processes_and_threads(folder):
    store = GroupStore(folder)
    assert store[0].key == "g0"
    assert pickle.loads(pickle.dumps(store))[10].key == "g10"
    # `getitem`, not a function of this file: a fresh process need not be able to import the tests.
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        groups = pool.map(getitem, [store, store], [50, 1], timeout=120)
        assert [group.key for group in groups] == ["g50", "g1"]
    wrong = []

    def read(start: int) -> None:
        wrong.extend(n for n in range(start, 57, 3) if store[n].key != f"g{n}")

    threads = [threading.Thread(target=read, args=(start,)) for start in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_labels_are_read_without_pictures(folder):
    labels = [row["labels"] for row in GroupStore(folder).columns("labels")]
    assert labels[:2] == [[1.0, 0.0], [1.0, 1.0]]


def test_an_empty_or_foreign_store_is_one_clear_error(tmp_path):
    pq.write_table(pa.table({"url": ["x"]}), tmp_path / "other.parquet")
    with pytest.raises(UserError, match="palate data convert"):
        GroupStore(tmp_path / "other.parquet")
    from palate.datasets.schema import arrow_schema

    pq.write_table(arrow_schema().empty_table(), tmp_path / "empty.parquet")
    with pytest.raises(UserError, match="holds no groups"):
        GroupStore(tmp_path / "empty.parquet")
    with pytest.raises(UserError, match="no Parquet files"):
        GroupStore(tmp_path / "absent")
