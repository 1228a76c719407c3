"""Seconds from starting the interpreter to the first training step, for `palate train` as a user runs it.

    python benchmarks/startup.py
    python benchmarks/startup.py --warm    # what is encoded once is there already

Counts everything on the way: imports, the look at the data, the encoding of pictures and prompts, the network. The CPU
seconds are those of the whole run of one step, the writing of its result included; a busy machine stretches the
seconds, not these.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from palate.t2i.recipes import recipe_file

GROUPS = 64
POLL_SECONDS = 0.01
QUIET = ["training.log_every=1", "training.sample_every=null", "training.validate_every=null"]


def first_step(recipe: Path, folder: Path, run: str, threads: int) -> tuple[float, float]:
    """Seconds to the first row of `metrics.jsonl`, and CPU seconds of the run."""
    changes = [f"data.path={folder / 'pairs'}", f"data.cache={folder / 'cache'}", f"output.folder={folder / run}"]
    command = [sys.executable, "-m", "palate", "train", str(recipe), *changes, "training.steps=1", *QUIET]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    metrics, before = folder / run / "metrics.jsonl", _cpu_seconds_of_children()
    started = time.perf_counter()
    with (folder / f"{run}.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        while not (metrics.is_file() and metrics.stat().st_size):
            if process.poll() is not None:
                raise SystemExit(f"palate train ended before its first step:\n{Path(log.name).read_text()}")
            time.sleep(POLL_SECONDS)
        seconds = time.perf_counter() - started
        process.wait()
    return seconds, _cpu_seconds_of_children() - before


def _cpu_seconds_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="tiny-sdxl-dpo", help="a shipped recipe for a tiny model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--warm", action="store_true", help="measure a second run, which finds the first one's cache")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # In a process of its own: what it imports must not warm this one up, nor its CPU time count.
        write = "import sys, pathlib, inputs; inputs.write_pairs(pathlib.Path(sys.argv[1]), int(sys.argv[2]), 32)"
        command = [sys.executable, "-c", write, Path(folder) / "pairs", str(GROUPS)]
        subprocess.run(command, check=True, cwd=Path(__file__).parent)
        recipe = recipe_file(options.recipe)
        seconds, cpu_seconds = first_step(recipe, Path(folder), "first", options.threads)
        if options.warm:
            seconds, cpu_seconds = first_step(recipe, Path(folder), "second", options.threads)
    if options.json:
        print(json.dumps({**vars(options), "seconds": seconds, "cpu_seconds": cpu_seconds}))
    else:
        print(f"{options.recipe}: first step after {seconds:.1f} s; {cpu_seconds:.1f} CPU seconds in all")


if __name__ == "__main__":
    main()
