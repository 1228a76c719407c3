"""The page's last part: which settings were tried, and how the reported ones stand among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from method_entries import MODELS, Entry
from method_rows import Record, Run, base_of, by_seed, runs_of
from method_settings import alike, in_words, said, told

_HEAD = """## How the settings were found

One run for each setting that was tried, with a seed and held-out sentences that the tables do not use; its gain is in
points. In brackets stands what all that were tried for a row share. *Reported* says how the tables' settings stand
among them. Where nothing was tried, it names the row that was searched and has the same beta and learning rate, if
there is one.

| method | model | reported | tried |
|---|---|---|---|
"""


def searches(record: Record, entries: Mapping[str, Entry]) -> str:
    """The section, in Markdown."""
    lines = []
    for name in entries:
        for model in MODELS:
            tried, reported = _tried(record, name, model), _reported(record, name, model)
            if tried or reported:
                standing = _standing(reported, tried) if tried else _origin(record, entries, name, model)
                lines.append(f"| {name} | {model} | {standing} | {_shown(tried) or '-'} |\n")
    return _HEAD + "".join(lines)


def _tried(record: Record, name: str, model: str) -> list[tuple[float, Run]]:
    """The search's runs with their gains in points, best first."""
    base = base_of(record, model, "search")
    if base is None:
        return []
    before = base["right"].count("1")
    runs = runs_of(record, "search", f"{name}/{model}/").values()
    once: list[Run] = []
    for run in runs:  # `gamma=1` and `gamma=1.0` have two keys
        if not any(alike(run, other) for other in once):
            once.append(run)
    gains = [(100 * (run["right"].count("1") - before) / len(run["right"]), run) for run in once]
    return sorted(gains, key=lambda pair: -pair[0])


def _reported(record: Record, name: str, model: str) -> Run | None:
    """The first run of the row."""
    return next(iter(by_seed(record, name, model, shuffled=False).values()), None)


def _shown(tried: list[tuple[float, Run]]) -> str:
    runs = [run for _, run in tried]
    batch = "batch_size"  # told where it was tried
    names = [*dict.fromkeys(name for run in runs for name in told(run)), batch]
    full = [{**run["settings"]["method"], batch: run["settings"]["training"][batch], **told(run)} for run in runs]
    varied = [name for name in names if any(settings.get(name) != full[0].get(name) for settings in full)]
    if not varied:
        return "; ".join(f"{in_words(run)}: {gain:+.1f}" for gain, run in tried)
    shared = said({name: full[0][name] for name in names if name not in [*varied, batch]})
    each = [said({name: settings[name] for name in varied if name in settings}) for settings in full]
    return f"({shared}) " * bool(shared) + "; ".join(f"{e}: {g:+.1f}" for e, (g, _) in zip(each, tried, strict=True))


def _standing(reported: Run | None, tried: list[tuple[float, Run]]) -> str:
    count, best = len(tried), tried[0][0]
    if reported is None:
        return "no run"
    mine = [gain for gain, run in tried if alike(run, reported)]
    if not mine:
        return f"{in_words(reported)}: not among the {count} tried"
    if count == 1:
        return "the only one tried"
    place = 1 + sum(gain > mine[0] for gain, _ in tried)
    if place > 1:
        return f"number {place} of {count} tried, {best - mine[0]:.1f} points behind the best"
    equal = sum(gain == best for gain, _ in tried) > 1
    return f"best of {count} tried" + ", with another" * equal


def _origin(record: Record, entries: Mapping[str, Entry], name: str, model: str) -> str:
    """Where nothing was tried: the searched row that has the same beta and learning rate, on the same model first."""
    mine = _reported(record, name, model)
    others = [(other, model) for other in entries] + [(name, other) for other in MODELS]
    for other, on in others:
        run = _reported(record, other, on)
        if mine and run and _tried(record, other, on) and _numbers(mine) == _numbers(run):
            where = "" if on == model else f" on {on}"
            return f"not searched; beta and learning rate as {other}'s{where}"
    return "not searched"


def _numbers(run: Run) -> tuple[Any, Any]:
    """Its beta, NaN (which is like no other) where it has none or its default, and its learning rate."""
    said = told(run)
    return said.get("beta", float("nan")), said["learning_rate"]
