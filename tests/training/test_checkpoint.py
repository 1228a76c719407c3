import errno
import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from palate.errors import PalateError
from palate.training import checkpoint
from palate.training.disk import remove_leftovers

WEIGHTS = {"a": torch.arange(6.0).reshape(2, 3).t(), "b": torch.tensor(-0.0)}  # "a" is not contiguous


def write(folder: Path, step: int, keep: int = 3, weights: dict[str, torch.Tensor] = WEIGHTS) -> Path:
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"betas": (0.9, 0.99), "foreach": None}]}
    return checkpoint.write(
        folder, step, tensors={"weights": weights}, objects={"optimizer": optimizer}, state={"step": step}, keep=keep
    )


def test_round_trip(tmp_path: Path) -> None:
    path = write(tmp_path, 7)
    assert checkpoint.latest(tmp_path) == path
    back = checkpoint.read_tensors(path, "weights")
    assert all(torch.equal(back[name], WEIGHTS[name]) for name in WEIGHTS)
    assert torch.signbit(back["b"])
    assert checkpoint.read_object(path, "optimizer")["param_groups"][0]["betas"] == (0.9, 0.99)
    assert checkpoint.read_state(path) == {"step": 7}
    assert checkpoint.read_tensors(path, "ema") == {}
    assert checkpoint.read_object(path, "scaler") is None


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 15, 20):
        write(tmp_path, step, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000015", "step-00000020"]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "damage", "told"),
    [
        ("weights.safetensors", _cut, "bytes instead of"),
        ("weights.safetensors", _flip, "changed or damaged"),
        ("optimizer.pt", Path.unlink, "optimizer.pt is missing"),
        ("state.json", _flip, "changed or damaged"),
        ("manifest.json", Path.unlink, "no manifest"),
        ("manifest.json", _cut, "manifest is damaged"),
        ("manifest.json", lambda path: path.write_text('{"files": {}}'), "manifest is damaged"),
        ("manifest.json", lambda path: path.write_text("[]"), "manifest is damaged"),
    ],
)
def test_a_damaged_checkpoint_is_never_picked(
    tmp_path: Path, name: str, damage: Callable[[Path], Any], told: str
) -> None:
    good = write(tmp_path, 5)
    damage(write(tmp_path, 10) / name)
    with pytest.warns(UserWarning, match=told):
        assert checkpoint.latest(tmp_path) == good
    damage(good / name)
    with pytest.warns(UserWarning, match=told):
        assert checkpoint.latest(tmp_path) is None


def test_a_damaged_newer_checkpoint_does_not_push_out_good_ones(tmp_path: Path) -> None:
    write(tmp_path, 5)
    (write(tmp_path, 20) / "manifest.json").unlink()
    write(tmp_path, 10, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000010"]


def test_half_written_folders_are_no_checkpoints_and_are_swept(tmp_path: Path) -> None:
    shutil.copytree(write(tmp_path / "other", 9), tmp_path / "run" / ".partial-step-00000009")
    assert checkpoint.latest(tmp_path / "run") is None
    remove_leftovers(tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []
    assert checkpoint.latest(tmp_path / "nowhere") is None


def test_weights_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    write(tmp_path, 5)
    with pytest.raises(PalateError, match=r"weights are no longer finite after step 6.*step-00000005"):
        write(tmp_path, 6, weights={"a": torch.tensor([1.0, torch.inf])})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000005"]


def test_full_disk_keeps_the_last_good_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = write(tmp_path, 5)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for target in ("save_file", "torch.save", "Path.write_text"):
        with monkeypatch.context() as patch:
            patch.setattr(f"palate.training.checkpoint.{target}", full)
            with pytest.raises(PalateError, match=r"No space left on device while writing checkpoint .*step-00000010"):
                write(tmp_path, 10)
        assert list(tmp_path.iterdir()) == [good]
        assert checkpoint.verify(good) is None


@pytest.mark.parametrize("limit", [100, 3_000, 9_000])
def test_a_write_that_the_system_refuses(tmp_path: Path, forked: Callable[..., Any], limit: int) -> None:
    """A real failure of write(2), in each of the files in turn: the process may write files of `limit` bytes only."""
    folder = tmp_path / "checkpoints"
    good = write(folder, 5)
    big = {"a": torch.zeros(500 if limit < 3_000 else 20)}

    def work() -> None:
        log = (tmp_path / "fault.json").open("w")
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            checkpoint.write(folder, 10, tensors={"w": big}, objects={"o": torch.zeros(limit)}, state={}, keep=2)
        except PalateError as error:
            print(json.dumps({"told": str(error)[:60]}), file=log, flush=True)

    child = forked(work)
    child.join(30)
    assert "while writing checkpoint" in (tmp_path / "fault.json").read_text() + (tmp_path / "child.log").read_text()
    assert list(folder.iterdir()) == [good]
