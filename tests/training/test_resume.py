import json
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from palate.errors import PalateError, UserError
from palate.training import checkpoint
from palate.training.interrupt import Interrupt
from palate.training.trackers import TIMING, read_metrics

SETTINGS: dict[str, Any] = {
    "steps": 40, "checkpoint_every": 3, "log_every": 5, "validate_every": 7, "sample_every": 10, "ema": 0.95,
    "schedule": "cosine", "warmup_steps": 4, "trackers": ["tensorboard"],
}  # fmt: skip


def task(toy: ModuleType, pause: float = 0.0) -> Any:
    return toy.ToyTask(dropout=0.2, pause=pause)


def numbers(folder: Path) -> list[dict[str, float]]:
    rows = read_metrics(folder / "metrics.jsonl")
    return [{key: value for key, value in row.items() if key not in TIMING} for row in rows]


def state(folder: Path) -> dict[str, bytes]:
    path = checkpoint.latest(folder / "checkpoints")
    assert path
    files = [*path.glob("*.safetensors"), *(folder / "final").iterdir(), *(folder / "samples").iterdir()]
    return {"step": path.name.encode(), **{f"{file.parent.name}/{file.name}": file.read_bytes() for file in files}}


def assert_same(resumed: Path, whole: Path) -> None:
    assert numbers(resumed) == numbers(whole)
    first, second = state(resumed), state(whole)
    assert first == {key.replace(str(whole), str(resumed)): value for key, value in second.items()}
    one, two = (checkpoint.read_object(checkpoint.latest(f / "checkpoints"), "optimizer") for f in (resumed, whole))
    for index, values in two["state"].items():
        assert all(torch.equal(values[key], one["state"][index][key]) for key in values)


@pytest.fixture(scope="module")
def whole(toy: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that was never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    toy.run(task(toy), folder, **SETTINGS)
    return folder


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "the child does not get on"
        time.sleep(0.002)


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_three_times_equals_never(
    toy: ModuleType, tmp_path: Path, whole: Path, forked: Callable[..., Any], seed: int
) -> None:
    moments = random.Random(seed)
    for kill in range(3):
        before = checkpoint.latest(tmp_path / "checkpoints")
        child = forked(lambda: toy.run(task(toy, 0.002), tmp_path, **SETTINGS))
        wait_for(lambda before=before: newest(tmp_path) > step(before))
        time.sleep(moments.uniform(0, 0.2))
        assert child.is_alive(), f"killed too late: {kill} {(tmp_path / 'child.log').read_text()}"
        child.kill()
        child.join()
    assert not (tmp_path / "summary.json").exists()
    summary = toy.run(task(toy), tmp_path, **SETTINGS)
    assert summary.finished
    assert_same(tmp_path, whole)
    starts = [start["step"] for start in json.loads((tmp_path / "environment.json").read_text())["starts"]]
    assert len(starts) == 4
    assert 0 == starts[0] < starts[1] < starts[2] < starts[3] < 40


def step(path: Path | None) -> int:
    return checkpoint.step_of(path) if path else 0


def newest(folder: Path) -> int:
    return max((checkpoint.step_of(path) for path in (folder / "checkpoints").glob("step-*")), default=0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_polite_stop_writes_a_checkpoint(
    toy: ModuleType, tmp_path: Path, whole: Path, forked: Callable[..., Any], number: signal.Signals
) -> None:
    settings = {**SETTINGS, "checkpoint_every": 1000, "workers": 1}

    def work() -> None:
        assert not toy.run(task(toy, 0.002), tmp_path, **settings).finished

    child = forked(work)
    wait_for(lambda: (tmp_path / "metrics.jsonl").exists() and len(read_metrics(tmp_path / "metrics.jsonl")) > 2)
    child._popen._send_signal(number)
    child.join(30)
    assert child.exitcode == 0, (tmp_path / "child.log").read_text()
    assert "interrupted after" in (tmp_path / "child.log").read_text()
    assert 5 < newest(tmp_path) < 40
    toy.run(task(toy), tmp_path, **{**settings, "workers": 0})
    assert_same(tmp_path, whole)


def test_signal_handlers_are_put_back(toy: ModuleType, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    toy.run(toy.ToyTask(), tmp_path)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


@pytest.mark.parametrize("fault", ["cut", "manifest"])
def test_half_a_checkpoint_is_passed_over(
    toy: ModuleType, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    stop_after(monkeypatch, 17)
    toy.run(task(toy), tmp_path, **SETTINGS)
    monkeypatch.undo()
    path = checkpoint.latest(tmp_path / "checkpoints")
    assert path
    assert path.name == "step-00000017"
    damaged = path / ("weights.safetensors" if fault == "cut" else "manifest.json")
    if fault == "cut":
        damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    else:
        damaged.unlink()
    with pytest.warns(UserWarning, match="step-00000017 is skipped"):
        toy.run(task(toy), tmp_path, **SETTINGS)
    assert json.loads((tmp_path / "environment.json").read_text())["starts"][1]["step"] == 15
    assert_same(tmp_path, whole)


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Pretend that Ctrl-C came during step `steps`."""
    asked = iter(range(1, 1000))
    monkeypatch.setattr(Interrupt, "requested", property(lambda _: next(asked) >= steps, lambda *_: None))


def test_metrics_after_the_checkpoint_are_dropped(
    toy: ModuleType, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(monkeypatch, 8)
    toy.run(task(toy), tmp_path, **SETTINGS)
    monkeypatch.undo()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 10, "loss": 3.0}\n{"step": 15, "lo')
    toy.run(task(toy), tmp_path, **SETTINGS)
    assert_same(tmp_path, whole)


def test_finished_run_says_so_and_can_be_prolonged(
    toy: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = toy.run(toy.ToyTask(), tmp_path / "a", steps=6)
    capsys.readouterr()
    idle = toy.ToyTask()
    idle.loss = None
    assert toy.run(idle, tmp_path / "a", steps=6) == first
    assert "is finished: 6 steps" in capsys.readouterr().out
    assert toy.run(toy.ToyTask(), tmp_path / "a", steps=12).step == 12
    toy.run(toy.ToyTask(), tmp_path / "b", steps=12)
    assert (tmp_path / "a/final/w.safetensors").read_bytes() == (tmp_path / "b/final/w.safetensors").read_bytes()


def test_killed_while_saving_the_final_weights(toy: ModuleType, tmp_path: Path) -> None:
    class Killed(BaseException): ...

    broken = toy.ToyTask()

    def save(folder: Path) -> None:
        (folder / "half").touch()
        raise Killed

    broken.save = save
    with pytest.raises(Killed):
        toy.run(broken, tmp_path)
    assert not (tmp_path / "final").exists()
    summary = toy.run(toy.ToyTask(), tmp_path)
    assert summary.finished
    assert summary.training["step"] == 12
    assert [path.name for path in (tmp_path / "final").iterdir()] == ["w.safetensors"]


def test_another_recipe_is_refused(toy: ModuleType, tmp_path: Path) -> None:
    toy.run(toy.ToyTask(), tmp_path, steps=4)
    with pytest.raises(UserError, match=r"training\.learning_rate \(0\.01 there, 0\.5 now\).*another output folder"):
        toy.run(toy.ToyTask(), tmp_path, steps=8, learning_rate=0.5)
    # Speed, length and display may change.
    summary = toy.run(toy.ToyTask(), tmp_path, steps=8, micro_batch=2, log_every=2, gradient_checkpointing=True)
    assert summary.step == 8


def test_another_network_is_refused(toy: ModuleType, tmp_path: Path) -> None:
    toy.run(toy.ToyTask(), tmp_path, steps=4)
    other = toy.ToyTask()
    other.network[0] = torch.nn.Linear(4, 8, bias=False)
    with pytest.raises(PalateError, match=r"does not fit the network.*0\.bias"):
        toy.run(other, tmp_path, steps=8)


def test_reference_is_still_the_original_after_resume(
    toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(monkeypatch, 8)
    toy.run(task(toy), tmp_path, **SETTINGS)
    monkeypatch.undo()
    resumed = task(toy)
    original = {name: weight.clone() for name, weight in resumed.reference.named_parameters()}
    toy.run(resumed, tmp_path, **SETTINGS)
    assert all(torch.equal(weight, original[name]) for name, weight in resumed.reference.named_parameters())
    assert not torch.equal(resumed.network[0].weight, resumed.reference[0].weight)


def test_two_at_once_are_refused(toy: ModuleType, tmp_path: Path, forked: Callable[..., Any]) -> None:
    child = forked(lambda: toy.run(toy.ToyTask(pause=0.02), tmp_path, steps=2000, workers=1))
    wait_for(lambda: (tmp_path / "metrics.jsonl").exists())
    with pytest.raises(UserError, match=rf"another process is training in .* \(process {child.pid} on"):
        toy.run(toy.ToyTask(), tmp_path, steps=2000)
    child.kill()
    child.join()
    # Its orphaned data worker must not keep the folder locked.
    assert toy.run(toy.ToyTask(), tmp_path, steps=20).finished
