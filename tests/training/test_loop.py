import errno
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from palate.errors import PalateError, UserError
from palate.training import checkpoint
from palate.training.trackers import read_metrics

GOLDEN = [1.736604, 0.883478, 1.253933, 1.080322, 3.672787, 4.838736, 0.971705, 0.478573, 3.883571, 0.936848, 2.594005,
          3.920159]  # fmt: skip


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(folder / "metrics.jsonl") if "loss" in row]


def final(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "final" / "w.safetensors")


def distance(first: Path, second: Path) -> float:
    one, two = final(first), final(second)
    return max((one[name] - two[name]).abs().max().item() for name in one)


def test_golden_loss_trace(toy: ModuleType, tmp_path: Path) -> None:
    summary = toy.run(toy.ToyTask(dropout=0.1), tmp_path, log_every=1, schedule="cosine", warmup_steps=2, ema=0.9)
    assert losses(tmp_path) == pytest.approx(GOLDEN, rel=1e-4)
    assert summary.finished
    assert not summary.stopped_early
    assert summary.step == 12
    assert summary.validation == pytest.approx({"loss": 0.327056, "accuracy": 1.0}, rel=1e-4)
    assert summary.training["step"] == 12


def test_what_a_run_leaves_behind(toy: ModuleType, tmp_path: Path) -> None:
    toy.run(toy.ToyTask(), tmp_path, trackers=["tensorboard"])
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        ".lock", "recipe.yaml", "environment.json", "metrics.jsonl", "tensorboard", "samples", "checkpoints", "final",
        "summary.json",
    }  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == [
        "step-000000.png", "step-000006.png", "step-000012.png"
    ]  # fmt: skip
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows if "loss" in row] == [3, 6, 9, 12]
    assert [row["step"] for row in rows if "validation/loss" in row] == [0, 6, 12]
    assert rows[0]["validation/loss"] == pytest.approx(0.693147, abs=1e-6)  # policy = reference
    assert {
        "winner_gain",
        "margin",
        "grad_norm",
        "learning_rate",
        "groups_per_second",
        "seconds",
        "peak_memory_gib",
    } <= (rows[-2].keys())


def test_accumulation_equals_the_big_batch(toy: ModuleType, tmp_path: Path) -> None:
    for micro in (1, 2, 8):
        toy.run(toy.ToyTask(), tmp_path / str(micro), micro_batch=micro)
    assert distance(tmp_path / "1", tmp_path / "8") < 1e-6
    assert distance(tmp_path / "2", tmp_path / "8") < 1e-6
    assert losses(tmp_path / "1") == pytest.approx(losses(tmp_path / "8"), abs=1e-6)
    # AdamW and clipping both hide a gradient of the wrong size; its norm does not.
    rows = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("1", "8")]
    norms = [[row["grad_norm"] for row in run if "grad_norm" in row] for run in rows]
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


def test_data_workers_change_nothing(toy: ModuleType, tmp_path: Path) -> None:
    toy.run(toy.ToyTask(), tmp_path / "none")
    toy.run(toy.ToyTask(), tmp_path / "two", workers=2)
    assert distance(tmp_path / "none", tmp_path / "two") == 0


def test_seed_0_is_a_seed(toy: ModuleType, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.manual_seed(hash(name) % 1000)  # whatever the process drew before must not matter
        toy.run(toy.ToyTask(dropout=0.3), tmp_path / name, seed=seed)
    assert distance(tmp_path / "a", tmp_path / "b") == 0
    assert distance(tmp_path / "a", tmp_path / "c") > 1e-4


def test_every_group_is_seen_once_an_epoch(toy: ModuleType, tmp_path: Path) -> None:
    task = toy.ToyTask(groups=24)
    toy.run(task, tmp_path, validate_every=None)
    assert [visit.position for visit in task.visits] == list(range(96))
    assert sorted(visit.index for visit in task.visits[:24]) == list(range(24))


def test_ema_weights_are_what_is_saved(toy: ModuleType, tmp_path: Path) -> None:
    toy.run(toy.ToyTask(), tmp_path, ema=0.9)
    newest = checkpoint.latest(tmp_path / "checkpoints")
    assert newest
    ema, own = checkpoint.read_tensors(newest, "ema"), checkpoint.read_tensors(newest, "weights")
    assert all(torch.equal(final(tmp_path)[name], ema[name]) for name in ema)
    assert not torch.equal(ema["0.weight"], own["0.weight"])


def test_bf16_keeps_trained_weights_in_float32(toy: ModuleType, tmp_path: Path) -> None:
    task = toy.ToyTask()
    seen: list[torch.dtype] = []
    task.network[0].register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    toy.run(task, tmp_path, precision="bf16")
    assert torch.bfloat16 in seen
    assert {weight.dtype for weight in task.network.parameters()} == {torch.float32}
    seen.clear()
    assert task.network(torch.ones(1, 4)).dtype == torch.float32  # the network is given back unwrapped
    assert seen == [torch.float32]


def test_weights_that_are_not_float32_are_refused(toy: ModuleType, tmp_path: Path) -> None:
    task = toy.ToyTask()
    task.network.to(torch.bfloat16)
    with pytest.raises(UserError, match=r"0\.weight is bfloat16.*float32"):
        toy.run(task, tmp_path / "run")
    task.network.requires_grad_(False)
    with pytest.raises(UserError, match="no trainable parameters"):
        toy.run(task, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_fp16_on_a_cpu_is_refused(toy: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        toy.run(toy.ToyTask(), tmp_path, precision="fp16")


def test_what_is_not_installed_is_told_before_anything_is_written(
    toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(UserError, match="adamw8bit needs bitsandbytes"):
        toy.run(toy.ToyTask(), tmp_path / "run", optimizer={"name": "adamw8bit"})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_nan_stops_and_keeps_the_last_good_checkpoint(toy: ModuleType, tmp_path: Path, workers: int) -> None:
    with pytest.raises(PalateError, match=r"loss of step 6 is nan \(visits 40 to 47\)") as caught:
        toy.run(toy.ToyTask(bad=45), tmp_path, workers=workers, validate_every=None)
    assert caught.value.exit_code == 1
    kept = [path.name for path in (tmp_path / "checkpoints").iterdir()]
    assert kept == ["step-00000004"]
    weights = checkpoint.read_tensors(tmp_path / "checkpoints" / kept[0], "weights")
    assert all(weight.isfinite().all() for weight in weights.values())
    assert losses(tmp_path) == pytest.approx([0.547834], abs=1e-5)
    assert not (tmp_path / "final").exists()
    # With the data mended, the same command goes on.
    assert toy.run(toy.ToyTask(), tmp_path, workers=workers, validate_every=None).finished


def test_early_stop(toy: ModuleType, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "steps": 60, "validate_every": 2, "sample_every": None, "early_stop": {"metric": "score", "patience": 2}
    }  # fmt: skip
    scores = [0.1, 0.2, 0.5, 0.4, 0.4, 0.9]
    task = toy.ToyTask()
    task.validate = lambda: {"score": scores.pop(0)}
    summary = toy.run(task, tmp_path, **settings)
    assert (summary.finished, summary.stopped_early, summary.step) == (True, True, 8)
    again = toy.ToyTask()
    again.validate = again.loss = None  # a finished run is not touched
    assert toy.run(again, tmp_path, **settings) == summary
    with pytest.raises(UserError, match="'socre' is no validation number; there are accuracy, loss"):
        toy.run(toy.ToyTask(), tmp_path / "b", **{**settings, "early_stop": {"metric": "socre"}})
    silent = toy.ToyTask()
    silent.validate = dict
    with pytest.raises(UserError, match="the run has no validation data"):
        toy.run(silent, tmp_path / "c", **settings)


def test_full_disk_during_a_checkpoint(toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.run(toy.ToyTask(), tmp_path / "whole")
    save = checkpoint.save_file

    def full_at_8(tensors: Any, path: Path) -> None:
        if "step-00000008" in str(path):
            save(tensors, path)
            raise OSError(errno.ENOSPC, "No space left on device")
        save(tensors, path)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full_at_8)
        with pytest.raises(PalateError, match="No space left on device while writing checkpoint"):
            toy.run(toy.ToyTask(), tmp_path / "run")
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000004"]
    toy.run(toy.ToyTask(), tmp_path / "run")
    assert distance(tmp_path / "run", tmp_path / "whole") == 0


def test_full_disk_elsewhere_and_no_memory(toy: ModuleType, tmp_path: Path) -> None:
    def raising(error: BaseException) -> Any:
        def work(*_: Any) -> Any:
            raise error

        return work

    task = toy.ToyTask()
    task.save = raising(OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(PalateError, match="No space left on device while training in"):
        toy.run(task, tmp_path / "a")
    assert not (tmp_path / "a" / "final").exists()
    assert not list((tmp_path / "a").glob(".partial*"))
    for error in (torch.OutOfMemoryError("CUDA out of memory. Tried"), MemoryError()):
        task = toy.ToyTask()
        task.loss = raising(error)
        with pytest.raises(PalateError, match=r"memory at training.micro_batch 4; try .* below 4.*checkpointing"):
            toy.run(task, tmp_path / "b")
    task.loss = raising(RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        toy.run(task, tmp_path / "b")


def test_a_users_mistake_in_a_worker_is_one_line(toy: ModuleType, tmp_path: Path) -> None:
    task = toy.ToyTask()

    def item(_: Any) -> Any:
        raise UserError("picture 7 is gone")

    task.item = item
    with pytest.raises(UserError, match=r"^picture 7 is gone$"):
        toy.run(task, tmp_path, workers=1, validate_every=None)


def test_bare_task_without_metrics(toy: ModuleType, tmp_path: Path) -> None:
    task = toy.ToyTask()
    loss = task.loss
    task.loss = lambda batch: (loss(batch)[0], {})
    task.validate = dict
    assert toy.run(task, tmp_path).finished
    assert "margin" not in read_metrics(tmp_path / "metrics.jsonl")[-1]


def test_losses_in_parts_are_their_mean_and_hold_one_graph_at_a_time(toy: ModuleType, tmp_path: Path) -> None:
    parted = toy.ToyInParts()
    toy.run(toy.ToyTask(), tmp_path / "whole")
    toy.run(parted, tmp_path / "parts")
    assert distance(tmp_path / "whole", tmp_path / "parts") < 1e-6
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), rel=1e-5)
    assert set(parted.left) == {0}
