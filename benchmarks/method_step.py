"""The speed of a step of each method against Diffusion-DPO's: pictures per CPU second, in turns, in one run.

    python benchmarks/method_step.py                                          # every row that learns from data
    python benchmarks/method_step.py --models tiny-sdxl tiny-sd3 --record     # and into docs/methods.json
    python benchmarks/method_step.py --methods mapo inpo rank_dpo

On a GPU seconds stand in place of CPU seconds. docs/methods.json keeps what was measured for each model and machine.

All take steps of equally many pictures: 16 pairs, or 8 groups of four. `forward` is one forward pass of the policy over
these pictures without gradient: InPO's step is held against Diffusion-DPO's and the forward passes that it adds.
"""

from __future__ import annotations

import argparse
import json
import platform
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
from method_entries import ENTRIES, MODELS
from method_record import keep
from method_run import OFFLINE
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
from palate.training.loader import to_device
from palate.training.task import Visit

YARDSTICK, FORWARD = "diffusion_dpo", "forward"
METHODS = [name for name, entry in ENTRIES.items() if entry.way is OFFLINE and name != YARDSTICK]
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
    method = method_of(name, job.model)
    with training(replace(job, pairs=2 * job.pairs // _compared(method)), method) as (step, _):
        yield step


@contextmanager
def forward_side(job: Job) -> Iterator[Step]:
    """One pass of the policy over a step's pictures, without gradient."""
    with training(job, method_of(YARDSTICK, job.model)) as (_, task):
        batch = task.collate([task.item(Visit(position, position)) for position in range(job.pairs)])
        batch = task.prepared.source.finish(to_device(batch, task.model.device))
        process, noise = task.model.process, ForwardNoise()
        noisy, _, times = noise.apply(process, batch["mean"], batch["draws"], task.model.predict)

        def step() -> None:
            with torch.no_grad():
                task._ask(batch["conditions"], task.network, noisy, times)

        yield step


def method_of(name: str, model: str) -> Method:
    """A row's method, with its settings for a model."""
    config: Any = TypeAdapter(MethodConfig).validate_python(ENTRIES[name].job(name, model).method)
    return config.build(elements=1)


def _compared(method: Method) -> int:
    """How many pictures stand beside each other, from a group of `_K`."""
    return method.compared(len(method.pick(_K)))


def summarise(job: Job, turns: dict[str, list[Turn]]) -> dict[str, Any]:
    """By side: pictures per second, and the ratio to Diffusion-DPO's turn in the same round; CPU seconds on a CPU."""
    basis = "seconds" if job.device.type == "cuda" else "cpu_seconds"
    per, pictures, rows = basis.removesuffix("s"), 2 * job.pairs, {}
    took = {name: [getattr(turn, basis) for turn in taken] for name, taken in turns.items()}
    for name, taken in took.items():
        k, calls = 2, 0.0
        if name != FORWARD:
            method = method_of(name, job.model)
            k = _compared(method)
            calls = method.calls(k)
        rows[name] = {
            f"pictures_per_{per}": spread([pictures / one for one in taken]),
            f"groups_per_{per}": spread([pictures / k / one for one in taken]),
            "ratio": spread([dpo / one for one, dpo in zip(taken, took[YARDSTICK], strict=True)]),
            "peak_memory_gib": max(turn.peak_gib for turn in turns[name]),
        }
        if calls and FORWARD in took:
            counted = zip(taken, took[YARDSTICK], took[FORWARD], strict=True)
            rows[name]["over_counted_cost"] = spread([one / (dpo + calls * forward) for one, dpo, forward in counted])
    return rows


def machine_of(job: Job) -> str:
    """What the steps run on, for people."""
    if job.device.type == "cuda":
        return torch.cuda.get_device_name()
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{(names or [platform.processor() or platform.machine()])[0]}, {job.threads} thread(s)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["tiny-sdxl"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, help="all that learn from data")
    parser.add_argument("--pairs", type=int, default=16, help="pairs a step; groups of four are half as many")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side")
    parser.add_argument("--steps", type=int, default=10, help="steps a turn")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--record", action="store_true", help="keep the result in docs/methods.json")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    found = {}
    for model in options.models:
        with tempfile.TemporaryDirectory() as scratch:
            resolution = find_architecture(model).resolution
            job = Job(model, resolution, options.pairs, 16, options.threads, 0, False, "none", scratch)
            found[model] = rows = measure(job, options.methods, options.rounds, options.steps)
        if options.record:
            machine = machine_of(job)
            command = f"python benchmarks/method_step.py --models {model} --methods {' '.join(options.methods)}"
            command += f" --pairs {job.pairs} --rounds {options.rounds} --steps {options.steps}"
            command += f" --threads {job.threads} --record"
            kept = {"machine": machine, "command": command}
            keep("speed", {f"{model}/{name}/{machine}": {**row, **kept} for name, row in rows.items()})
        if not options.json:
            print(f"{model} on {machine_of(job)}\n{_table(rows)}", flush=True)
    if options.json:
        print(json.dumps(found, indent=2))


def measure(job: Job, methods: list[str], rounds: int, steps: int) -> dict[str, Any]:
    """By side, what `summarise` gives; the yardstick's and the forward pass's are those of the last methods."""
    write_rankings(Path(job.scratch) / "pairs", max(GROUPS, 2 * job.pairs))
    rows: dict[str, Any] = {}
    for start in range(0, len(methods), _AT_ONCE):
        sides: dict[str, Any] = {YARDSTICK: partial(method_side, name=YARDSTICK), FORWARD: forward_side}
        sides |= {name: partial(method_side, name=name) for name in methods[start : start + _AT_ONCE]}
        rows |= summarise(job, take_turns(sides, job, job.threads, rounds, steps))
    return rows


def _table(rows: dict[str, Any]) -> str:
    cpu = "pictures_per_cpu_second" in rows[YARDSTICK]
    lines = [f"{'':16}{'pictures/CPU-s' if cpu else 'pictures/s':>28}{'x Diffusion-DPO':>28}{'peak GiB':>10}"]
    for name, row in rows.items():
        speed, ratio = span(row["pictures_per_cpu_second" if cpu else "pictures_per_second"]), span(row["ratio"])
        over = f"  {span(row['over_counted_cost'])} of the counted cost" if "over_counted_cost" in row else ""
        lines.append(f"{name:16}{speed:>28}{ratio:>28}{row['peak_memory_gib']:>10.2f}{over}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
