"""A reward's labels of pairs of clean pictures, as SPO's model for SDXL was trained on PickScore's."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pyarrow as pa
import torch

from ...datasets.digest import digest
from ...datasets.store import GroupStore
from ...errors import UserError
from ...rewards.scorer import Scorer
from ...rewards.scoring.picture_file import read_picture
from ..cache import TensorCache
from ..plan import Entry, Plan, picture_bytes

_AT_ONCE = 32  # groups
UNSCORED = "no score"


def label_by_reward(
    plan: Plan,
    store: GroupStore,
    scorer: Scorer,
    scale: float,
    gap: float,
    cache: TensorCache | None = None,
    on_groups: Callable[[int], None] | None = None,
) -> Plan:
    """The plan with labels (1, 0), (0, 1), or (0.5, 0.5) where softmax(scale * scores) differ by `gap` or less.

    A group with a picture that has no score is left out. Scores are kept in `cache`, if there is one.

    Raises UserError if nothing remains.
    """
    kept, labels = [], []
    for start in range(0, len(plan), _AT_ONCE):
        numbers = range(start, min(len(plan), start + _AT_ONCE))
        entries = [plan[number] for number in numbers]
        for number, scores in zip(numbers, _scores(entries, store, scorer, cache), strict=True):
            if all(map(math.isfinite, scores)):
                kept.append(number)
                labels.append(_labels(scores[0] - scores[1], scale, gap))
        if on_groups:
            on_groups(numbers.stop)
    if not kept:
        raise UserError(f"{scorer.name} has no score for any of {len(plan)} groups; label them otherwise")
    chosen = plan.subset(kept)
    column = chosen.table.schema.get_field_index("labels")
    table = chosen.table.set_column(column, "labels", pa.array(labels, pa.list_(pa.float64())))
    skipped = {**plan.skipped, UNSCORED: len(plan) - len(kept)} if len(kept) < len(plan) else plan.skipped
    data_hash = digest(plan.data_hash, scorer.fingerprint, str(scale), str(gap))
    return replace(chosen, table=table, skipped=skipped, data_hash=data_hash)


def _labels(difference: float, scale: float, gap: float) -> list[float]:
    """Of a pair whose scores differ by that much."""
    apart = math.tanh(scale * difference / 2)  # p - (1 - p) of the softmax over two
    return [0.5, 0.5] if abs(apart) <= gap else [1.0, 0.0] if apart > 0 else [0.0, 1.0]


def _scores(
    entries: list[Entry], store: GroupStore, scorer: Scorer, cache: TensorCache | None
) -> list[tuple[float, ...]]:
    """Of each entry's pictures for its prompt; NaN where there is none."""
    wanted = [(entry, place) for entry in entries for place in range(len(entry.images))]
    keys = {
        (entry.row, place): digest("score", scorer.fingerprint, entry.prompt, entry.images[place])
        for entry, place in wanted
    }
    known = {} if cache is None else {key: found for key in keys.values() if (found := cache.get(key)) is not None}
    numbers = {key: float(found["score"]) for key, found in known.items()}
    missing = [(entry, place) for entry, place in wanted if keys[entry.row, place] not in numbers]
    if missing:
        content = {entry.row: picture_bytes(store, entry) for entry in dict.fromkeys(entry for entry, _ in missing)}
        pictures = [read_picture(content[entry.row][place]) for entry, place in missing]
        scores = scorer.reward.score([entry.prompt for entry, _ in missing], pictures)
        for (entry, place), score in zip(missing, scores, strict=True):
            key = keys[entry.row, place]
            numbers[key] = float(score)
            if cache is not None and math.isfinite(numbers[key]):
                cache.put(key, {"score": torch.tensor(numbers[key])})
    return [tuple(numbers[keys[entry.row, place]] for place in range(len(entry.images))) for entry in entries]
