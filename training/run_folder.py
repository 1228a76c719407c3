"""The run folder: where things lie, and whether a run may go on in one that is there already.

recipe.yaml  data.json  base.json  environment.json  metrics.jsonl  tensorboard/  samples/  checkpoints/  final/
summary.json
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError
from .disk import write_json, write_text
from .recipe import dump_recipe

# What may change between two starts of one run: how long, how fast, how shown; nothing that changes a step's result.
# Data and weights may be moved or named otherwise: `require_same_data` and `require_same_weights` look at what they
# hold; the cache holds nothing that cannot be made again.
_FREE = {"data.path", "data.cache", "model.path", "method.judge.weights"} | {
    f"training.{key}"
    for key in (
        "steps",
        "micro_batch",
        "gradient_checkpointing",
        "compile",
        "checkpoint_every",
        "keep_checkpoints",
        "log_every",
        "validate_every",
        "sample_every",
        "early_stop",
        "workers",
        "trackers",
        "threads",
    )
}


@dataclass(frozen=True)
class Summary:
    """How a run ended; also written as summary.json once it is finished."""

    folder: Path
    step: int
    """Optimizer steps done."""
    finished: bool
    """False when it was interrupted: the same command goes on."""
    stopped_early: bool = False
    seconds: float = 0.0
    """Time spent in training steps, over all starts."""
    training: dict[str, float] = field(default_factory=dict)
    """The last logged numbers."""
    validation: dict[str, float] = field(default_factory=dict)
    """The last held-out numbers."""

    @property
    def final(self) -> Path:
        """Where the final weights are, in the user's format."""
        return self.folder / "final"


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run."""

    path: Path

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def data(self) -> Path:
        return self.path / "data.json"

    @property
    def base(self) -> Path:
        return self.path / "base.json"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def final(self) -> Path:
        return self.path / "final"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"


def create(path: Path) -> RunFolder:
    """Make the folder and its parts."""
    folder = RunFolder(path)
    try:
        folder.samples.mkdir(parents=True, exist_ok=True)
        folder.checkpoints.mkdir(exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise UserError(f"the output folder {path} cannot be made: {error.strerror}; choose another one") from error
    return folder


def store_recipe(folder: RunFolder, recipe: dict[str, Any]) -> None:
    """Write the resolved recipe that a run goes on by, see `require_same_recipe`."""
    write_text(folder.recipe, dump_recipe(recipe))


def stored_recipe(folder: RunFolder) -> dict[str, Any] | None:
    """The recipe that the folder's run was trained by, if there is one. Raises UserError if it cannot be read."""
    try:
        stored = yaml.safe_load(folder.recipe.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):  # `create` says what a file in the way is
        return None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{folder.recipe} cannot be read; choose another output folder, or remove this one") from error
    if not isinstance(stored, dict):
        raise UserError(f"{folder.recipe} is not a recipe; choose another output folder, or remove this one")
    return stored


def moved_by_length(stored: dict[str, Any], recipe: dict[str, Any]) -> str:
    """What is laid over `training.steps` and moves with a run that goes on with another number of them, as a line for
    the user; "" if nothing moves."""
    old, new = _flat(stored), _flat(recipe)
    before, now = old.get("training.steps"), new.get("training.steps")
    laid = {
        "training.schedule": new.get("training.schedule", "constant") != "constant",
        "data.order": new.get("data.order") == "curriculum",
        "method.decay": bool(new.get("method.decay")),
    }
    if before == now or not any(laid.values()):
        return ""
    moved = " and ".join(name for name, is_so in laid.items() if is_so)
    return f"training.steps was {before} and is {now}: for {moved} this is a run of {now} steps from here on"


def require_same_recipe(
    folder: RunFolder, recipe: dict[str, Any], fixed: Collection[str] = ()
) -> dict[str, Any] | None:
    """The recipe that is stored in the folder, if any.

    Args:
        fixed: keys that may change in other runs, and decide a step's result in this one.

    Raises UserError when the folder belongs to a run whose recipe differs in more than length, speed or display.
    """
    stored = stored_recipe(folder)
    if stored is not None:
        free = _FREE - set(fixed)
        changed = [key for key in _differences(stored, recipe) if key not in free and not key.startswith("output")]
        if changed:
            old, new = _flat(stored), _flat(recipe)
            shown = ", ".join(f"{key} ({_show(old, key)} there, {_show(new, key)} now)" for key in changed[:5])
            more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
            raise UserError(
                f"{folder.path} holds a run with another recipe: {shown}{more}; choose another output folder, "
                "or give the stored values to resume that run"
            )
    return stored


def keep_data(folder: RunFolder, data: dict[str, Any]) -> None:
    """Write down what a run's data is (`hash`, `groups`, ...); raises what `require_same_data` raises."""
    if not require_same_data(folder, data):
        create(folder.path)
        write_json(folder.data, data)


def require_same_data(folder: RunFolder, data: dict[str, Any]) -> bool:
    """Whether it is known what data the folder's run began with; raise UserError if these are others."""
    stored = _begun_with(folder.data)
    if stored is None:
        return False
    if stored.get("hash") != data["hash"]:
        raise UserError(
            f"{folder.path} holds a run on other data ({stored.get('groups')} groups then, {data['groups']} now, or "
            "other pictures or labels); choose another output folder, or bring the old data back to resume that run"
        )
    return True


def keep_weights(folder: RunFolder, fingerprint: str, path: str) -> None:
    """Write down which weights a run begins from; raises what `require_same_weights` raises."""
    if not require_same_weights(folder, fingerprint, path):
        create(folder.path)
        write_json(folder.base, {"path": path, "weights": fingerprint})


def require_same_weights(folder: RunFolder, fingerprint: str, path: str) -> bool:
    """Whether it is known which weights the folder's run began from; raise UserError if these are others."""
    stored = _begun_with(folder.base)
    if stored is None:
        return False
    if stored.get("weights") != fingerprint:
        raise UserError(
            f"{folder.path} holds a run that began from other weights ({stored.get('path')} then, {path} now); "
            "choose another output folder, or bring the old weights back to resume that run"
        )
    return True


def _begun_with(file: Path) -> dict[str, Any] | None:
    """What was written down when a run began; None where there is nothing, or it is damaged."""
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):  # `create` says what a file in the way is
        return None
    return stored if isinstance(stored, dict) else None


def read_summary(folder: RunFolder) -> Summary | None:
    """The summary of a finished run."""
    try:
        values = json.loads(folder.summary.read_text(encoding="utf-8"))
        return Summary(**{**values, "folder": folder.path})
    except (FileNotFoundError, ValueError, TypeError):
        return None


def write_summary(folder: RunFolder, summary: Summary) -> None:
    """Mark the run finished."""
    write_json(folder.summary, {**asdict(summary), "folder": str(folder.path)})


def _differences(stored: dict[str, Any], recipe: dict[str, Any]) -> list[str]:
    old, new = _flat(stored), _flat(yaml.safe_load(dump_recipe(recipe)))
    absent = object()
    different = (key for key in sorted(old.keys() | new.keys()) if old.get(key, absent) != new.get(key, absent))
    return [_free_parent(key) for key in different]


def _free_parent(key: str) -> str:
    return next((free for free in _FREE if key.startswith(f"{free}.")), key)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _show(flat: dict[str, Any], key: str) -> str:
    return repr(flat[key]) if key in flat else "not set"
