"""docs/methods.md: the page about the methods, made of docs/methods.json and of nothing else."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from method_data import evaluation_prompts
from method_entries import MODELS, Entry

from palate.eval.statistics import Gain, paired_gain
from palate.t2i.recipes import recipe_file
from palate.training.recipe import read_recipe

_HEAD = """# The methods, measured

Every method of preference that palate has, on the two tiny models of the shapes world ([demo.md](demo.md)): each
learned from the same data, within the same number of network evaluations, and was measured on the same prompts and
seeds. This page is written by `python benchmarks/methods.py render` from [methods.json](methods.json), where each
run stands with its settings and the command that made it. `python benchmarks/methods.py run` and the same with
`--shuffled` make all runs anew: {hours:.1f} hours of one core for {runs} runs of {minutes:.1f} minutes, as many at
once as `--processes` says, and a few minutes before them for the data.

**Data.** The model draws {per_prompt} pictures for each of {groups} prompts of the training half, and the oracle
labels them in [0, 1]. Groups without a difference are dropped. Pairwise methods take the best against the worst,
RankDPO and Diffusion-KTO all {per_prompt}. For DCPO and TPO the oracle is the captioner: the caption of a picture
is its prompt where that is true of it, else a sentence of the world about what the oracle sees; the loser's (TPO:
the other) caption is that, changed by the rule-based perturber at medium strength. `dcpo_perturb` needs no
captioner: the winner keeps its prompt, the loser has the prompt changed. Captions from an oracle are knowledge that
the other methods do not get.

**Budget.** {evaluations:,} evaluations of the network by one picture, where a forward pass counts 1 and a backward
pass 2: 4 for a picture with a reference, 3 without, and InPO's inversion adds its calls. A step sees {pictures}
pictures, so that the number of steps follows. LoRA of rank 16 on all layers of the blocks, AdamW, linear to zero.

**Measure.** *Gain*: base and trained model draw {prompts} prompts of the held-out half {images} times from the same
seeds; a picture is right if it shows what its prompt asks for and nothing else; the gain is in percentage points.
Its 95 % interval is a bootstrap over prompts: all pictures of a sentence, under all seeds of training, are
resampled together. It says how far the mean of *these* runs would move with other prompts; how far runs lie apart
is in the next column. *Winner* and *loser*: change of the denoising error against the base, on pairs of prompts
that nobody learns from, with the same times and noise. *Diversity*: mean distance of two pictures of a prompt, base
and trained (root mean square of the pixels' differences). *Speed*: pairs, or groups, per CPU second of a training
step, and in brackets pictures against Diffusion-DPO in the same run (`python benchmarks/method_step.py`). *Memory*:
peak of the training process, libraries included.
"""


@dataclass(frozen=True)
class Row:
    """A method on a model, all seeds together."""

    name: str
    runs: list[dict[str, Any]]
    gain: Gain
    each: list[float]

    @property
    def above(self) -> bool:
        """Whether the gain's interval lies above zero."""
        return self.gain.gain.low > 0


def render(record: Mapping[str, Any], entries: Mapping[str, Entry]) -> str:
    """The page, in Markdown."""
    runs, about = record.get("runs", {}), record["about"]
    seconds = [run["cpu_seconds"] + run["measuring_seconds"] for run in runs.values()]
    facts = {"hours": sum(seconds) / 3600, "runs": len(seconds), "minutes": np.mean(seconds) / 60}
    parts = [_wrapped(_HEAD.format(**about, **facts))]
    for model in MODELS:
        rows = [row for name in entries if (row := _row(record, name, model, shuffled=False))]
        controls = [row for name in entries if (row := _row(record, name, model, shuffled=True))]
        right = record["base"][f"{model}/report"]["right"]
        parts.append(f"## {model}\n\nBase: {right.count('1') / len(right):.1%} of the pictures are right.\n")
        parts.append(_table(record, model, rows))
        parts.append(_verdict(rows, entries, model) + _risen(record, model, rows))
        if controls:
            parts.append(
                "### Labels that say nothing\n\nIn half of the groups, drawn at random, preferences are turned round.\n"
            )
            parts.append(_table(record, model, controls))
            parts.append(_control_verdict(controls))
    parts.append(
        "## Notes\n\n" + "".join(f"- `{name}`: {entry.note}\n" for name, entry in entries.items() if entry.note)
    )
    parts.append(_searches(record, entries))
    return "\n".join(parts).rstrip() + "\n"


def _wrapped(text: str) -> str:
    return "\n\n".join(part if part[0] == "#" else textwrap.fill(part, 120) for part in text.split("\n\n")) + "\n"


def _row(record: Mapping[str, Any], name: str, model: str, shuffled: bool) -> Row | None:
    about = record["about"]
    start = f"{name}/{model}/" + "shuffled/" * shuffled
    found = {
        key: run for key, run in record.get("runs", {}).items() if key.startswith(start) and key[len(start) :].isdigit()
    }
    runs = [found[key] for key in sorted(found)]
    if not runs:
        return None
    shape = about["prompts"], about["images"]
    before = _verdicts(record["base"][f"{model}/report"], shape)
    after = [_verdicts(run, shape) for run in runs]
    texts = [prompt.text for prompt in evaluation_prompts("report", about["prompts"])]
    gain = paired_gain(np.tile(before, len(runs)), np.concatenate(after, axis=1), texts)
    return Row(name, runs, gain, [100 * float((one - before).mean()) for one in after])


def _verdicts(measured: Mapping[str, Any], shape: tuple[int, int]) -> np.ndarray:
    return np.array([float(digit) for digit in measured["right"]]).reshape(shape)


def _table(record: Mapping[str, Any], model: str, rows: list[Row]) -> str:
    base, speed = record["base"][f"{model}/report"], record.get("speed", {})
    head = "method | settings | steps x groups | gain, points | each run | winner | loser | diversity | speed | memory"
    lines = [f"| {head} |", "|" + "---|" * 10]
    for row in rows:
        one, gain = row.runs[0], row.gain.gain
        measured = speed.get(f"{model}/{row.name}")
        lines.append(
            f"| {row.name} | {_settings(one, model)} | {one['steps']} x {one['groups_per_step']} "
            f"| {100 * gain.mean:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}] "
            f"| {', '.join(f'{each:+.1f}' for each in row.each)} "
            f"| {_change(row.runs, base, 'winner_error')} | {_change(row.runs, base, 'loser_error')} "
            f"| {base['diversity']:.3f}, {np.mean([run['diversity'] for run in row.runs]):.3f} "
            f"| {_speed(measured)} | {max(run['peak_memory_gib'] for run in row.runs):.2f} GiB |"
        )
    return "\n".join(lines) + "\n"


def _settings(run: Mapping[str, Any], model: str) -> str:
    method = {key: value for key, value in run["method"].items() if key != "name"}
    shipped = read_recipe(recipe_file(f"{model}-dpo"), [])["training"]["learning_rate"]
    data = {} if run["form"] == "groups" else {"data": run["form"]}
    told = {**method, "learning_rate": shipped, **run["training"], **data}
    return ", ".join(
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in told.items()
    )


def _change(runs: list[dict[str, Any]], base: Mapping[str, Any], name: str) -> str:
    return f"{np.mean([100 * (run[name] / base[name] - 1) for run in runs]):+.1f} %"


def _speed(measured: Mapping[str, Any] | None) -> str:
    if measured is None:
        return "-"
    return f"{measured['groups_per_cpu_second']['median']:.0f} /s ({measured['ratio']['median']:.2f})"


def _verdict(rows: list[Row], entries: Mapping[str, Entry], model: str) -> str:
    card = [row for row in rows if entries[row.name].card]
    above = [row for row in card if row.above]
    short = [row.name for row in card if not row.above]
    missing = [name for name, entry in entries.items() if entry.card and name not in {row.name for row in card}]
    lines = [f"The gain's interval lies above zero for {_names(above)}."] if above else []
    lines += [f"It does not for {name}. {entries[name].why.get(model, '')}".strip() for name in short]
    lines += [f"Not run yet: {', '.join(missing)}."] if missing else []
    return " ".join(lines) + "\n"


def _risen(record: Mapping[str, Any], model: str, rows: list[Row]) -> str:
    start = record["base"][f"{model}/report"]["winner_error"]
    risen = [row for row in rows if np.mean([run["winner_error"] for run in row.runs]) > start]
    return f"In {len(risen)} of {len(rows)} rows the winner's error, too, is above the base's.\n"


def _control_verdict(rows: list[Row]) -> str:
    gained = [row for row in rows if row.above]
    if gained:
        return f"A gain that labels cannot have made: {_names(gained)}.\n"
    return "None of them gains.\n"


def _names(rows: list[Row]) -> str:
    return ", ".join(row.name for row in rows)


def _searches(record: Mapping[str, Any], entries: Mapping[str, Entry]) -> str:
    lines = [
        "## How the settings were found\n",
        "One run for each setting, with a seed and held-out sentences that the tables do not use. All settings that",
        "were tried, with their gain in points:\n",
        "| method | model | tried |",
        "|---|---|---|",
    ]
    for name in entries:
        for model in MODELS:
            tried = {k: run for k, run in record.get("search", {}).items() if k.startswith(f"{name}/{model}/")}
            if tried:
                right = record["base"][f"{model}/search"]["right"]
                gains = [
                    (100 * (run["right"].count("1") - right.count("1")) / len(right), run) for run in tried.values()
                ]
                told = [
                    f"{_settings(run, model)}: {gain:+.1f}" for gain, run in sorted(gains, key=lambda pair: -pair[0])
                ]
                lines.append(f"| {name} | {model} | {'; '.join(told)} |")
    return "\n".join(lines) + "\n"
