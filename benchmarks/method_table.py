"""docs/methods.md: its numbers and settings are those of docs/methods.json, whatever recipes and defaults are today.

Which rows a whole table has, and what must be known to read them, is in `method_entries`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
from method_data import STRONGER
from method_entries import MODELS, Entry
from method_rows import Record, Row, Run, base_of, left_out, missing, rows_of, runs_of
from method_search import searches
from method_settings import in_words

_HEAD = """# The methods, measured

{which}, on the two tiny models of the shapes world ([demo.md](demo.md)): each learned from the same prompts, within the
same number of network evaluations, and was measured on the same prompts and seeds. This page is written by `python
benchmarks/methods.py render` from [methods.json](methods.json), where each run stands with all its settings and the
command that made it. `python benchmarks/methods.py run` and the same with `--shuffled` make what is missing, and all of
it anew where there is no methods.json. The {runs} runs here took {hours:.1f} hours of one core, {minutes:.1f} minutes
each; the data take a few minutes before them.

**Data.** The model draws {per_prompt} pictures for each of {groups} prompts of the training half, and the oracle
labels them in [0, 1]. Groups without a difference are dropped. Pairwise methods and Diffusion-KTO take the best and
the worst, RankDPO all {per_prompt}, SePPO and plain fine-tuning (`sft`) the best alone. Where the settings say data
stronger, the winner is instead the best of {per_prompt} that the model draws with guidance {strong_guidance:g} in
{strong_steps} steps, as a better model's would be; evaluation draws with guidance {guidance:g}. For DCPO and TPO the
oracle is the captioner: the caption of a picture is its prompt where that is true of it, else a sentence of the world
about what the oracle sees; the loser's (TPO: the other) caption is that, changed by the rule-based perturber at medium
strength. `dcpo_perturb` needs no captioner: the winner keeps its prompt, the loser has the prompt changed. Captions
from an oracle are knowledge that the other methods do not get. SPO and D3PO take the prompts and none of the pictures.

**Budget.** {evaluations:,} evaluations of the network by one picture, where a forward pass counts 1 and a backward
pass 2: 4 for a picture with a reference, 3 without. InPO's inversion, SePPO's drawing and the rollouts of SPO and D3PO
add their passes. A step sees {pictures} pictures, so that the number of steps follows; a step of SPO or D3PO sees
{online} prompts and costs what their pairs cost, which is counted as it runs. {spent} LoRA of
rank {rank} on all layers of the blocks, AdamW, linear to zero.

**Settings.** Those that a row names; the others are the method's defaults, and methods.json has all of them.

**Measure.** *Gain*: base and trained model draw {prompts} prompts of the held-out half {images} times from the same
seeds; a picture is right if it shows what its prompt asks for and nothing else; the gain is in percentage points.
Its 95 % interval is a bootstrap over prompts: all pictures of a sentence, under all seeds of training, are
resampled together. It says how far the mean of *these* runs would move with other prompts; how far runs lie apart
is in the next column. *Winner* and *loser*: change of the denoising error against the base, on pairs of prompts
that nobody learns from, with the same times and noise. *Diversity*: mean distance of two pictures of a prompt, base
and trained (root mean square of the pixels' differences). *Memory*: peak of the training process, libraries included.
"""


def render(record: Record, entries: Mapping[str, Entry]) -> str:
    """The page, in Markdown."""
    parts = [_wrapped(_HEAD.format(**record["about"], **_facts(record, entries)))]
    lacking, others = list(missing(record, entries)), left_out(record)
    if lacking:
        parts.append("**Not run yet.**\n\n" + "".join(_wrapped(f"- {line}", "  ") for line in lacking))
    if others:
        parts.append(_wrapped(f"**Left out**, for they are of another size or budget: {', '.join(others)}."))
    for model in MODELS:
        parts += _model(record, entries, model)
    noted = [name for name, entry in entries.items() if entry.note and any(_ran(record, name, on) for on in MODELS)]
    if noted:
        parts.append("## Notes\n\n" + "".join(f"- `{name}`: {entries[name].note}\n" for name in noted))
    parts.append(searches(record, entries))
    return "\n".join(parts).rstrip() + "\n"


def _wrapped(text: str, indent: str = "") -> str:
    parts = text.split("\n\n")
    fill = partial(textwrap.fill, width=120, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False)
    return "\n\n".join(part if part[0] == "#" else fill(part) for part in parts) + "\n"


def _facts(record: Record, entries: Mapping[str, Entry]) -> dict[str, Any]:
    runs = runs_of(record, "runs")
    seconds = [run["cpu_seconds"] + run["measuring_seconds"] for run in runs.values()]
    counted = [run["evaluations"] for run in runs.values()]
    over = [
        f"{key} ({n:,})"
        for (key, _), n in zip(runs.items(), counted, strict=True)
        if n > record["about"]["evaluations"]
    ]
    spent = f"The runs here took {min(counted):,} to {max(counted):,}." if runs else "There are no runs yet."
    if over:
        spent += f" More than the budget: {', '.join(over)}."
    done = {model: sum(_ran(record, name, model) for name in entries) for model in MODELS}
    which = "Every method of preference that palate has"
    if any(count < len(entries) for count in done.values()):
        counts = " and ".join(f"{count} on {model}" for model, count in done.items())
        which = f"The methods of preference that palate has, as far as they have been run ({counts} of "
        which += f"{len(entries)} rows)"
    return {
        "strong_guidance": STRONGER["guidance"],
        "strong_steps": STRONGER["steps"],
        "which": which,
        "spent": spent,
        "runs": len(runs),
        "hours": sum(seconds) / 3600,
        "minutes": sum(seconds) / 60 / max(1, len(runs)),
        "online": _span({run["groups_per_step"] for run in runs.values() if run["form"] == "prompts"}),
        "rank": _span({run["settings"]["lora"]["rank"] for run in runs.values()}),
    }


def _ran(record: Record, name: str, model: str) -> bool:
    return any(key.split("/")[2].isdigit() for key in runs_of(record, "runs", f"{name}/{model}/"))


def _model(record: Record, entries: Mapping[str, Entry], model: str) -> list[str]:
    base = base_of(record, model, "report")
    if base is None:
        return [f"## {model}\n\nNothing has been run.\n"]
    right = base["right"]
    parts = [f"## {model}\n\nBase: {right.count('1') / len(right):.1%} of the pictures are right.\n"]
    rows, controls = rows_of(record, entries, model), rows_of(record, entries, model, shuffled=True)
    if rows:
        parts += [_table(base, rows), _verdict(rows, entries, model) + _risen(base, rows)]
    if controls:
        without = [row.name for row in rows if not entries[row.name].control]
        said = "In half of the groups, drawn at random, preferences are turned round."
        said += f" No control is made of {', '.join(without)}: no labels go into them, or no losers." * bool(without)
        parts += [_wrapped(f"### Labels that say nothing\n\n{said}"), _table(base, controls)]
        parts.append(_control_verdict(controls))
    speed = {key: each for key, each in record.get("speed", {}).items() if key.startswith(f"{model}/")}
    return parts + ([_speed(speed, entries)] if speed else [])


def _table(base: Run, rows: list[Row]) -> str:
    head = "method | settings | steps x groups | evaluations | gain, points | each run | winner | loser | diversity"
    lines = [f"| {head} | memory |", "|" + "---|" * 10]
    for row in rows:
        gain = row.gain.gain
        steps, groups = (_span({run[name] for run in row.runs}) for name in ("steps", "groups_per_step"))
        lines.append(
            f"| {row.name} | {in_words(row.runs[0])} | {steps} x {groups} "
            f"| {_span({run['evaluations'] for run in row.runs})} "
            f"| {100 * gain.mean:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}] "
            f"| {', '.join(f'{each:+.1f}' for each in row.each)} "
            f"| {_change(row.runs, base, 'winner_error')} | {_change(row.runs, base, 'loser_error')} "
            f"| {base['diversity']:.3f}, {np.mean([run['diversity'] for run in row.runs]):.3f} "
            f"| {max(run['peak_memory_gib'] for run in row.runs):.2f} GiB |"
        )
    return "\n".join(lines) + "\n"


def _span(values: set[int]) -> str:
    return " to ".join(f"{value:,}" for value in sorted({min(values), max(values)})) if values else "-"


def _change(runs: list[Run], base: Run, name: str) -> str:
    return f"{np.mean([100 * (run[name] / base[name] - 1) for run in runs]):+.1f} %"


def _verdict(rows: list[Row], entries: Mapping[str, Entry], model: str) -> str:
    above = [row.name for row in rows if row.above]
    short = [row.name for row in rows if not row.above]
    lines = [f"The gain's interval lies above zero for {', '.join(above)}."] if above else []
    lines += [f"It does not for {', '.join(short)}."] if short and above else []
    lines += ["No gain's interval lies above zero."] if not above else []
    lines += [entries[name].why[model] for name in short if model in entries[name].why]
    return _wrapped(" ".join(lines))


def _risen(base: Run, rows: list[Row]) -> str:
    risen = [row for row in rows if np.mean([run["winner_error"] for run in row.runs]) > base["winner_error"]]
    return f"In {len(risen)} of {len(rows)} rows the winner's error, too, is above the base's.\n"


def _control_verdict(rows: list[Row]) -> str:
    gained = [row.name for row in rows if row.above]
    if gained:
        return f"A gain that labels cannot have made: {', '.join(gained)}.\n"
    return "None of them gains.\n"


def _speed(speed: Mapping[str, Any], entries: Iterable[str]) -> str:
    machines = sorted({each["machine"] for each in speed.values()})
    measured = {(key.split("/")[1], each["machine"]): each for key, each in speed.items()}
    parts = [
        "### Speed of a step\n",
        "Pairs, or groups, a second of the process's CPU (on a GPU: a second), and in brackets pictures against",
        "Diffusion-DPO in the same run: medians of turns (`python benchmarks/method_step.py --record`). SPO and D3PO",
        "draw their own pictures in a step; what they cost stands above, in evaluations. Rates are of several runs:",
        "compare what stands in brackets.\n",
        f"| method | {' | '.join(machines)} |",
        "|" + "---|" * (1 + len(machines)),
    ]
    for name in entries:
        cells = [measured.get((name, machine)) for machine in machines]
        if any(cells):
            parts.append(f"| {name} | {' | '.join(map(_rate, cells))} |")
    return "\n".join(parts) + "\n"


def _rate(measured: Mapping[str, Any] | None) -> str:
    if measured is None:
        return "-"
    groups = measured.get("groups_per_cpu_second") or measured["groups_per_second"]
    return f"{groups['median']:.0f} /s ({measured['ratio']['median']:.2f})"
