"""The speed of a step of each method against Diffusion-DPO's: pictures per CPU second, in turns, in one run.

    python benchmarks/method_step.py --model tiny-sdxl
    python benchmarks/method_step.py --methods mapo inpo rank_dpo --record    # and into docs/methods.json

All take steps of equally many pictures: 16 pairs, or 8 groups of four. `forward` is one forward pass of the policy over
these pictures without gradient: InPO's step is held against Diffusion-DPO's and the forward passes that it adds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dpo_step import GROUPS, Job, span, spread, training
from method_entries import ENTRIES
from method_record import keep
from method_run import train_offline
from pydantic import TypeAdapter
from turns import Step, Turn, take_turns

from palate.datasets.group import Group
from palate.datasets.parquet import write_groups
from palate.datasets.shapes.prompts import draw_prompts, draw_scene
from palate.datasets.shapes.world import render
from palate.diffusion.corruption import ForwardNoise
from palate.t2i.build.samples import png
from palate.t2i.method import Method
from palate.t2i.methods import MethodConfig
from palate.t2i.models.architectures import find_architecture
from palate.training.task import Visit

YARDSTICK, FORWARD = "diffusion_dpo", "forward"
METHODS = [name for name, entry in ENTRIES.items() if entry.train is train_offline and name != YARDSTICK]
_AT_ONCE = 4  # methods beside the yardstick in one run: each side holds a model of its own
_K = 4  # pictures a group


def write_rankings(folder: Path, count: int, k: int = 4) -> None:
    """Write `count` groups of `k` pictures of the shapes world, with all that a method may ask for."""
    rng = np.random.default_rng(0)

    def groups() -> Iterator[Group]:
        for i, prompt in enumerate(draw_prompts(count, seed=0, held_out=False)):
            pictures = tuple(png(render(draw_scene(prompt, rng))) for _ in range(k))
            labels, seeds = tuple(1 - j / k for j in range(k)), tuple(range(k * i, k * (i + 1)))
            yield Group(f"group-{i}", prompt.text, pictures, labels, captions=(prompt.text,) * k, seed=seeds)

    write_groups(groups(), folder)


@contextmanager
def method_side(job: Job, name: str) -> Iterator[Step]:
    """A training step of a row's method."""
    method = method_of(name)
    k = len(method.pick(_K))
    with training(replace(job, pairs=2 * job.pairs // k), method) as (step, _):
        yield step


@contextmanager
def forward_side(job: Job) -> Iterator[Step]:
    """One pass of the policy over a step's pictures, without gradient."""
    with training(job, method_of(YARDSTICK)) as (_, task):
        batch = task.collate([task.item(Visit(position, position)) for position in range(job.pairs)])
        batch = task.prepared.source.finish(batch)
        clean = batch["mean"]
        noisy, _, times = ForwardNoise().apply(task.model.process, clean, batch["draws"], task.model.predict)

        def step() -> None:
            with torch.no_grad():
                task.model.predict(task.network, noisy, times, batch["conditions"])

        yield step


def method_of(name: str) -> Method:
    """A row's method."""
    config: Any = TypeAdapter(MethodConfig).validate_python(dict(ENTRIES[name].method))
    return config.build(elements=1)


def summarise(job: Job, turns: dict[str, list[Turn]]) -> dict[str, Any]:
    """By side: pictures per CPU second, and the ratio to Diffusion-DPO's turn in the same round."""
    pictures, rows = 2 * job.pairs, {}
    for name, taken in turns.items():
        k = 2 if name == FORWARD else method_of(name).compared(len(method_of(name).pick(_K)))
        ratios = [dpo.cpu_seconds / turn.cpu_seconds for turn, dpo in zip(taken, turns[YARDSTICK], strict=True)]
        rows[name] = {
            "pictures_per_cpu_second": spread([pictures / turn.cpu_seconds for turn in taken]),
            "groups_per_cpu_second": spread([pictures / k / turn.cpu_seconds for turn in taken]),
            "ratio": spread(ratios),
            "peak_memory_gib": max(turn.peak_gib for turn in taken),
        }
        calls = 0 if name == FORWARD else method_of(name).calls(2)
        if calls and FORWARD in turns:
            counted = zip(taken, turns[YARDSTICK], turns[FORWARD], strict=True)
            over = [t.cpu_seconds / (dpo.cpu_seconds + calls * one.cpu_seconds) for t, dpo, one in counted]
            rows[name]["over_counted_cost"] = spread(over)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-sdxl", help="a checkpoint")
    parser.add_argument("--methods", nargs="+", choices=METHODS)
    parser.add_argument("--pairs", type=int, default=16, help="pairs a step; groups of four are half as many")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side")
    parser.add_argument("--steps", type=int, default=10, help="steps a turn")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--record", action="store_true", help="keep the result in docs/methods.json")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        resolution = find_architecture(options.model).resolution
        job = Job(options.model, resolution, options.pairs, 16, options.threads, 0, False, "none", scratch)
        write_rankings(Path(scratch) / "pairs", max(GROUPS, 2 * job.pairs))
        rows = {}
        names = options.methods or METHODS
        for start in range(0, len(names), _AT_ONCE):
            sides: dict[str, Any] = {YARDSTICK: partial(method_side, name=YARDSTICK), FORWARD: forward_side}
            sides |= {name: partial(method_side, name=name) for name in names[start : start + _AT_ONCE]}
            rows |= summarise(job, take_turns(sides, job, job.threads, options.rounds, options.steps))
    if options.record:
        command = f"python benchmarks/method_step.py --model {options.model} --rounds {options.rounds} --record"
        keep("speed", {f"{options.model}/{name}": {**row, "command": command} for name, row in rows.items()})
    print(json.dumps(rows, indent=2) if options.json else _table(rows))


def _table(rows: dict[str, Any]) -> str:
    lines = [f"{'':16}{'pictures/CPU-s':>28}{'x Diffusion-DPO':>28}{'peak GiB':>10}"]
    for name, row in rows.items():
        speed, ratio = span(row["pictures_per_cpu_second"]), span(row["ratio"])
        over = f"  {span(row['over_counted_cost'])} of the counted cost" if "over_counted_cost" in row else ""
        lines.append(f"{name:16}{speed:>28}{ratio:>28}{row['peak_memory_gib']:>10.2f}{over}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
