"""Where the numbers go: metrics.jsonl always, TensorBoard and Weights & Biases as configured."""

from __future__ import annotations

import json
import math
import os
import uuid
from pathlib import Path
from typing import Any, Protocol

from ..errors import UserError
from .disk import write_text

Row = dict[str, float]
VALIDATION = "validation/"
"""Prefix of held-out numbers in a row; a row has either training or held-out numbers."""
TIMING = ("seconds", "groups_per_second", "peak_memory_gib", "mfu")
"""Keys that depend on the machine; all others of a resumed run equal the uninterrupted one's."""


class MetricsFile:
    """One JSON object a line: `step`, then either training or `validation/...` numbers; a NaN is null.

    Opened for a run that goes on from `step`, it drops what came after: later rows and a line cut in half.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.rows = read_metrics(path, step)
        write_text(path, "".join(_line(row) for row in self.rows))
        self._file = path.open("a", encoding="utf-8")

    def log(self, row: Row) -> None:
        self.rows.append(row)
        self._file.write(_line(row))
        self._file.flush()

    def sync(self) -> None:
        """Bring the rows to the disk, so that a checkpoint never knows of a step that the file does not."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    @property
    def training(self) -> list[Row]:
        return [row for row in self.rows if not held_out(row)]

    @property
    def validation(self) -> list[Row]:
        return [row for row in self.rows if held_out(row)]


def read_metrics(path: Path, step: int | None = None) -> list[Row]:
    """The whole rows up to `step` (all when None); a missing file has none."""
    rows: list[Row] = []
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return rows
    for line in lines:
        try:
            row = {key: math.nan if value is None else value for key, value in json.loads(line).items()}
            if not line.endswith(b"\n") or (step is not None and row["step"] > step):
                break
        except (ValueError, KeyError, AttributeError):
            break
        rows.append(row)
    return rows


def _line(row: Row) -> str:
    plain = {key: value if math.isfinite(value) else None for key, value in row.items()}
    return json.dumps(plain, allow_nan=False) + "\n"


def validation_row(step: int, numbers: dict[str, float]) -> Row:
    """Held-out numbers as a row."""
    return {"step": step, **{VALIDATION + key: value for key, value in numbers.items()}}


def held_out(row: Row) -> dict[str, float]:
    """The held-out numbers of a row, without their prefix."""
    return {key.removeprefix(VALIDATION): value for key, value in row.items() if key.startswith(VALIDATION)}


class Tracker(Protocol):
    """What a tracker does with a row and with a picture of samples."""

    def log(self, row: Row) -> None: ...
    def picture(self, step: int, path: Path) -> None: ...
    def close(self) -> None: ...


class TensorBoard:
    """Event files in `tensorboard/`; on resume the viewer drops the steps that are done again."""

    def __init__(self, folder: Path, step: int) -> None:
        self._writer: Any = _summary_writer()(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def log(self, row: Row) -> None:
        for tag, value in _tagged(row).items():
            self._writer.add_scalar(tag, value, int(row["step"]))
        self._writer.flush()

    def picture(self, step: int, path: Path) -> None:
        import numpy as np
        from PIL import Image

        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        self._writer.add_image("samples", pixels, step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """One W&B run for the run folder, however often it is resumed."""

    def __init__(self, folder: Path, recipe: dict[str, Any]) -> None:
        wandb = _wandb()
        name = folder / "wandb_id.txt"
        if not name.exists():
            write_text(name, uuid.uuid4().hex[:12])
        self._wandb = wandb
        self._run: Any = wandb.init(
            project="palate", name=folder.name, dir=str(folder), id=name.read_text(), resume="allow", config=recipe
        )

    def log(self, row: Row) -> None:
        self._run.log(_tagged(row), step=int(row["step"]))

    def picture(self, step: int, path: Path) -> None:
        self._run.log({"samples": self._wandb.Image(str(path))}, step=step)

    def close(self) -> None:
        self._run.finish()


def open_trackers(names: tuple[str, ...], folder: Path, step: int, recipe: dict[str, Any]) -> list[Tracker]:
    """The configured trackers of a run that goes on from `step`; UserError when one is not installed."""
    opened: list[Tracker] = []
    if "tensorboard" in names:
        opened.append(TensorBoard(folder, step))
    if "wandb" in names:
        opened.append(WeightsAndBiases(folder, recipe))
    return opened


def require_trackers(names: tuple[str, ...]) -> None:
    """Raise UserError if one of the configured trackers is not installed."""
    if "tensorboard" in names:
        _summary_writer()
    if "wandb" in names:
        _wandb()


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError(
            "training.trackers has tensorboard, which is not installed; pip install tensorboard, or leave it out"
        ) from error
    return SummaryWriter


def _wandb() -> Any:
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            "training.trackers has wandb, which is not installed; pip install 'palate[wandb]', or leave it out"
        ) from error
    return wandb


def _tagged(row: Row) -> dict[str, float]:
    values = {key: value for key, value in row.items() if key != "step" and math.isfinite(value)}
    return {key if key.startswith(VALIDATION) else f"training/{key}": value for key, value in values.items()}
