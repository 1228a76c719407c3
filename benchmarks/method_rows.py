"""The rows of the page's tables: what of docs/methods.json stands beside each other, and what of it is not there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from method_data import evaluation_prompts
from method_entries import MODELS, SEEDS, Entry
from method_run import OFFLINE
from method_settings import alike

from palate.eval.statistics import Gain, paired_gain

Record = Mapping[str, Any]
Run = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """A method on a model, all seeds with the same settings together."""

    name: str
    runs: list[Run]
    gain: Gain
    each: list[float]

    @property
    def above(self) -> bool:
        """Whether the gain's interval lies above zero."""
        return self.gain.gain.low > 0


def base_of(record: Record, model: str, part: str) -> Run | None:
    """The base model's measures; None where there are none of the page's size."""
    base = record.get("base", {}).get(f"{model}/{part}", {})
    return base if base.get("size") and base["size"].items() <= record["about"].items() else None


def runs_of(record: Record, section: str, start: str = "") -> dict[str, Run]:
    """By key, the runs of a section whose key starts so, of those that the page's size and budget allow to compare."""
    runs = record.get(section, {}).items()
    return {key: run for key, run in runs if key.startswith(start) and run.get("frame") == record["about"]}


def left_out(record: Record) -> list[str]:
    """The keys of the runs of another size or budget."""
    sections = ("runs", "search")
    return [key for name in sections for key in sorted(record.get(name, {}).keys() - runs_of(record, name).keys())]


def by_seed(record: Record, name: str, model: str, shuffled: bool) -> dict[int, Run]:
    """A row's runs, the seeds ascending."""
    start = f"{name}/{model}/" + "shuffled/" * shuffled
    found = {key[len(start) :]: run for key, run in runs_of(record, "runs", start).items()}
    return {int(seed): found[seed] for seed in sorted((seed for seed in found if seed.isdigit()), key=int)}


def rows_of(record: Record, names: Iterable[str], model: str, shuffled: bool = False) -> list[Row]:
    """The rows of a table; runs of a method with different settings are rows of their own."""
    return [
        _row(record, name, model, runs)
        for name in names
        for runs in _grouped(by_seed(record, name, model, shuffled).values())
    ]


def _grouped(runs: Iterable[Run]) -> list[list[Run]]:
    groups: list[list[Run]] = []
    for run in runs:
        for group in groups:
            if alike(group[0], run):
                group.append(run)
                break
        else:
            groups.append([run])
    return groups


def _row(record: Record, name: str, model: str, runs: list[Run]) -> Row:
    base, about = base_of(record, model, "report"), record["about"]
    assert base is not None, "runs are measured after their base"
    shape = about["prompts"], about["images"]
    before = _verdicts(base, shape)
    after = [_verdicts(run, shape) for run in runs]
    texts = [prompt.text for prompt in evaluation_prompts("report", about["prompts"])]
    gain = paired_gain(np.tile(before, len(runs)), np.concatenate(after, axis=1), texts)
    return Row(name, runs, gain, [100 * float((one - before).mean()) for one in after])


def _verdicts(measured: Run, shape: tuple[int, int]) -> np.ndarray:
    return np.array([float(digit) for digit in measured["right"]]).reshape(shape)


def missing(record: Record, entries: Mapping[str, Entry]) -> Iterator[str]:
    """What of the whole page has not been run, a line for each model and kind; speed is of what learns from data."""
    controlled = [name for name, entry in entries.items() if entry.control]
    for shuffled, names in ((False, list(entries)), (True, controlled)):
        for model in MODELS:
            lacking: dict[tuple[int, ...], list[str]] = {}
            for name in names:
                found = by_seed(record, name, model, shuffled)
                lacking.setdefault(tuple(seed for seed in SEEDS if seed not in found), []).append(name)
            lacking.pop((), None)
            parts = [f"{', '.join(lacking.pop(SEEDS))}"] if SEEDS in lacking else []
            parts += [
                f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))} of {', '.join(rest)}"
                for seeds, rest in sorted(lacking.items())
            ]
            if parts:
                yield f"{'controls' if shuffled else 'rows'} on {model}: {'; '.join(parts)}"
    for model in MODELS:
        measured = {key.split("/")[1] for key in record.get("speed", {}) if key.startswith(f"{model}/")}
        if unmeasured := [name for name, entry in entries.items() if entry.way is OFFLINE and name not in measured]:
            yield f"speed on {model}: {', '.join(unmeasured)}"
