import errno

import pytest
import torch

from palate.datasets.digest import digest
from palate.errors import PalateError
from palate.t2i import cache as cache_module
from palate.t2i.cache import TensorCache


def test_round_trip(tmp_path):
    cache = TensorCache(tmp_path)
    key = digest("a")
    assert key not in cache
    assert cache.get(key) is None
    cache.put(key, {"x": torch.arange(3.0)})
    assert key in cache
    assert torch.equal(cache.get(key)["x"], torch.arange(3.0))


def test_a_cut_entry_is_as_good_as_absent(tmp_path):
    cache = TensorCache(tmp_path)
    cache.put("ab", {"x": torch.zeros(100)})
    data = cache.path("ab").read_bytes()
    cache.path("ab").write_bytes(data[: len(data) // 2])
    assert cache.get("ab") is None


def test_a_full_disk_is_one_line_and_leaves_no_half_entry(tmp_path, monkeypatch):
    def full(tensors, file):
        file.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache_module, "save_file", full)
    with pytest.raises(PalateError, match=r"No space left on device.*run the same command again"):
        TensorCache(tmp_path).put("ab", {"x": torch.zeros(1)})
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_digest_tells_apart_how_parts_are_split():
    assert digest("ab", "c") != digest("a", "bc")
    assert digest("a", b"b") == digest("a", "b")
