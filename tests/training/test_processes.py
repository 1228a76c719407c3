import socket
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from safetensors.torch import load_file

from palate.training.trackers import TIMING, read_metrics


def launch(forked: Callable[..., Any], work: Callable[[], object], folder: Path) -> list[int]:
    """Two processes as `accelerate launch` starts them, over the loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {
        "ACCELERATE_USE_CPU": "true", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    children = [forked(work, f"rank{rank}.log", RANK=str(rank), LOCAL_RANK=str(rank), **shared) for rank in range(2)]
    for child in children:
        child.join(60)
    return [child.exitcode for child in children]


def logs(folder: Path) -> str:
    return "".join(path.read_text() for path in sorted(folder.glob("rank*.log")))


def test_two_processes_equal_one(toy: ModuleType, tmp_path: Path, forked: Callable[..., Any]) -> None:
    settings = {"micro_batch": 2, "ema": 0.9, "early_stop": {"metric": "accuracy", "patience": 9}}
    toy.run(toy.ToyTask(), tmp_path / "one", **settings)
    codes = launch(forked, lambda: toy.run(toy.ToyTask(), tmp_path / "two", **settings), tmp_path)
    assert codes == [0, 0], logs(tmp_path)
    one, two = (load_file(tmp_path / name / "final" / "w.safetensors") for name in ("one", "two"))
    assert max((one[name] - two[name]).abs().max().item() for name in one) < 1e-5
    rows = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("one", "two")]
    assert len(rows[0]) == len(rows[1]) == 7
    for first, second in zip(*rows, strict=True):
        keys = first.keys() - set(TIMING)
        assert {key: first[key] for key in keys} == pytest.approx({key: second[key] for key in keys}, abs=1e-5)
    # And a run may go on with another number of processes.
    toy.run(toy.ToyTask(), tmp_path / "one", steps=18, **settings)
    codes = launch(forked, lambda: toy.run(toy.ToyTask(), tmp_path / "two", steps=18, **settings), tmp_path)
    assert codes == [0, 0], logs(tmp_path)
    one, two = (load_file(tmp_path / name / "final" / "w.safetensors") for name in ("one", "two"))
    assert max((one[name] - two[name]).abs().max().item() for name in one) < 1e-5


def test_an_error_of_the_main_process_ends_all(toy: ModuleType, tmp_path: Path, forked: Callable[..., Any]) -> None:
    task = toy.ToyTask(bad=77)

    def work() -> None:
        toy.run(task, tmp_path / "run", micro_batch=4)

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("training: {seed: 3}\n")
    assert launch(forked, work, tmp_path) == [1, 1]
    assert logs(tmp_path).count("UserError: ") == 2
    (tmp_path / "run" / "recipe.yaml").unlink()
    # A NaN on one process stops both.
    assert launch(forked, work, tmp_path) == [1, 1]
    assert logs(tmp_path).count("PalateError: the loss of step 10 is nan") == 2
