import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from palate.errors import UserError
from palate.training.trackers import MetricsFile, TensorBoard, open_trackers, read_metrics


def test_metrics_go_on_where_the_checkpoint_was(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path, 0)
    for step in (0, 5, 10, 15):
        file.log({"step": step, "loss": 0.1 * step})
    file.close()
    with path.open("a") as raw:
        raw.write('{"step": 20, "loss": 0.')
    again = MetricsFile(path, 10)
    assert [row["step"] for row in again.rows] == [0, 5, 10]
    again.log({"step": 12, "loss": math.nan})
    again.close()
    assert path.read_text().splitlines()[-1] == '{"step": 12, "loss": null}'  # NaN is no JSON
    assert [row["step"] for row in read_metrics(path)] == [0, 5, 10, 12]
    assert math.isnan(read_metrics(path)[-1]["loss"])


def test_tensorboard_drops_what_is_done_again(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    picture = tmp_path / "grid.png"
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(picture)
    board = TensorBoard(tmp_path, 0)
    for step in (1, 2, 3):
        board.log({"step": step, "loss": float(step)})
    board.log({"step": 3, "validation/accuracy": 0.5})
    board.picture(3, picture)
    board.close()
    board = TensorBoard(tmp_path, 1)
    board.log({"step": 2, "loss": 20.0, "margin": math.nan})
    board.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("training/loss")] == [(1, 1.0), (2, 20.0)]
    assert "training/margin" not in events.Tags()["scalars"]


def test_wandb_is_optional_and_resumes_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"wandb, which is not installed; pip install 'palate\[wandb\]'"):
        open_trackers(("wandb",), tmp_path, 0, {})
    calls: list[Any] = []
    run = SimpleNamespace(log=lambda row, step: calls.append((step, row)), finish=lambda: calls.append("finished"))
    fake = SimpleNamespace(init=lambda **kwargs: calls.append(kwargs) or run, Image=lambda path: path)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for step in (0, 4):
        (tracker,) = open_trackers(("wandb",), tmp_path, step, {"a": 1})
        tracker.log({"step": 4, "loss": 0.5, "validation/x": 1.0})
        tracker.picture(4, Path("p.png"))
        tracker.close()
    assert calls[0]["id"] == calls[4]["id"]
    assert calls[0]["config"] == {"a": 1}
    assert calls[1:4] == [(4, {"training/loss": 0.5, "validation/x": 1.0}), (4, {"samples": "p.png"}), "finished"]
    assert json.dumps(calls[0]["resume"]) == '"allow"'
