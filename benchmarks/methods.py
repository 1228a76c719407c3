"""Every method on the tiny models, from the same data and the same number of network evaluations.

    python benchmarks/methods.py run                                    # what is missing of the whole table
    python benchmarks/methods.py run --methods mapo inpo --models tiny-sd3 --seeds 0 --processes 2
    python benchmarks/methods.py run --shuffled                         # the controls: labels that say nothing
    python benchmarks/methods.py search --methods mapo --models tiny-sd3 --set beta=0.1,1 training.learning_rate=1e-3
    python benchmarks/methods.py render                                 # docs/methods.md from docs/methods.json

Each run is a process of its own on one thread. A finished one is kept in docs/methods.json as it ends, with all its
settings, the size and budget, and the command that made it. It is not run again unless one of these is another now, a
shipped recipe's settings too, or it took more than its budget.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from method_data import Size
from method_entries import ENTRIES, MODELS, SEEDS
from method_measure import base
from method_record import PAGE, keep, read_record
from method_run import Job, run
from method_settings import holds
from method_table import render

SEARCH_SEED = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "search", "render"))
    parser.add_argument("--methods", nargs="+", choices=ENTRIES, default=list(ENTRIES))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--shuffled", action="store_true", help="the controls in place of the methods")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE,...", help="search: a grid of settings")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("runs/methods"), help="data and run folders")
    options = parser.parse_args()
    if options.what == "render":
        PAGE.write_text(render(read_record(), ENTRIES), encoding="utf-8")
        return
    jobs = _jobs(options)
    section = "runs" if options.what == "run" else "search"
    done = read_record().get(section, {})
    jobs = {key: job for key, job in jobs.items() if not _is_done(done.get(key), job)}
    print(f"{len(jobs)} runs to do", flush=True)
    if not jobs:
        return
    size = Size()
    keep("about", next(iter(jobs.values())).frame(size))
    part = "report" if options.what == "run" else "search"
    for model in dict.fromkeys(job.model for job in jobs.values()):
        found = base(model, part, options.folder, size)
        keep("base", {f"{model}/{part}": found})
    work = partial(_work, folder=options.folder, size=size)
    with multiprocessing.get_context("spawn").Pool(options.processes, maxtasksperchild=1) as pool:
        for key, outcome in pool.imap_unordered(work, jobs.items()):
            if isinstance(outcome, str):
                print(f"{key} failed: {outcome}", flush=True)
                continue
            outcome["command"] = _command(jobs[key], options.what)
            keep(section, {key: outcome})
            before = read_record()["base"][f"{jobs[key].model}/{part}"]
            print(f"{key}: {_points(before, outcome):+.1f} points, {outcome['seconds']:.0f} s", flush=True)


def _points(before: dict[str, Any], after: dict[str, Any]) -> float:
    return 100 * (after["right"].count("1") - before["right"].count("1")) / len(before["right"])


def _jobs(options: argparse.Namespace) -> dict[str, Job]:
    """By the key in the record."""
    grid = [[(key, value) for value in values] for key, values in map(_grid, options.set)]
    jobs = {}
    # Seed by seed, so that the whole table is there early and gets narrower.
    default = [SEARCH_SEED] if options.what == "search" else SEEDS
    for seed, model, name in itertools.product(options.seeds or default, options.models, options.methods):
        entry = ENTRIES[name]
        if options.shuffled and not entry.control:
            continue
        job = entry.job(name, model, seed=seed, shuffled=options.shuffled)
        if options.what == "run":
            jobs[job.key] = job
            continue
        for changes in itertools.product(*grid):
            tried = _changed(replace(job, part="search"), dict(changes))
            jobs[f"{tried.key}/{tried.form} {json.dumps({**tried.method, **tried.training})}"] = tried
    return jobs


def _grid(text: str) -> tuple[str, list[Any]]:
    key, _, values = text.partition("=")
    return key, [yaml.safe_load(value) for value in values.split(",")]


def _changed(job: Job, changes: dict[str, Any]) -> Job:
    for key, value in changes.items():
        value = float(value) if isinstance(value, str) and value[:1].isdigit() else value  # YAML 1.1 reads 1e-3 as text
        if key == "form":
            job = replace(job, form=value)
        elif key.startswith("training."):
            job = replace(job, training={**job.training, key.removeprefix("training."): value})
        else:
            job = replace(job, method={**job.method, key: value})
    return job


def _is_done(record: dict[str, Any] | None, job: Job) -> bool:
    if record is None or record["evaluations"] > job.evaluations:
        return False
    framed = record.get("frame") == job.frame(Size()) and record["form"] == job.form
    return framed and holds(record["settings"], ENTRIES[job.name].way.settings(job))


def _work(item: tuple[str, Job], folder: Path, size: Size) -> tuple[str, dict[str, Any] | str]:
    key, job = item
    torch.set_num_threads(1)
    logs = folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with (logs / f"{os.getpid()}.log").open("w") as log, redirect_stdout(log), redirect_stderr(log):
        try:
            return key, run(job, folder, size, ENTRIES[job.name].way)
        except Exception as error:  # the other runs go on
            return key, f"{type(error).__name__}: {error}; see {log.name}"


def _command(job: Job, what: str) -> str:
    command = f"python benchmarks/methods.py {what} --methods {job.name} --models {job.model} --seeds {job.seed}"
    if what == "search":
        settings = {k: v for k, v in job.method.items() if k != "name"} | {
            f"training.{k}": v for k, v in job.training.items()
        }
        command += " --set " + " ".join(
            f"{key}={json.dumps(value)}" for key, value in {**settings, "form": job.form}.items()
        )
    return command + " --shuffled" * job.shuffled


if __name__ == "__main__":
    main()
