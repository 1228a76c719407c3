"""The real command: killed with SIGKILL it ends in the same weights, and two processes end where one does."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

RECIPE = """
model: {{kind: clip, path: "{clip}"}}
data: {{path: "{data}", holdout: 0.3}}
method: {{name: reward_model, loss: pickscore}}
training: {{steps: {steps}, batch_size: 8, micro_batch: 2, learning_rate: 1.0e-3, schedule: cosine, ema: 0.9,
  checkpoint_every: 10, validate_every: 20, workers: 1, trackers: []}}
output: {{folder: "{run}"}}
"""
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}


def command(recipe: Path, *launcher: str) -> list[str]:
    return [sys.executable, *launcher, "-m", "palate", "train", str(recipe)]


def write(folder: Path, name: str, clip: Path, groups: Path, steps: int) -> Path:
    recipe = folder / f"{name}.yaml"
    recipe.write_text(RECIPE.format(clip=clip, data=groups, run=folder / name, steps=steps))
    return recipe


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(folder / name / "final" / "model.safetensors")


def test_killed_twice_it_ends_in_the_same_weights(clip_folder, groups, tmp_path):
    environment = {**os.environ, **ENVIRONMENT}
    whole, killed = (write(tmp_path, name, clip_folder, groups, 400) for name in ("whole", "killed"))
    subprocess.run(command(whole), env=environment, check=True, capture_output=True)
    checkpoints = tmp_path / "killed" / "checkpoints"
    for _ in range(2):
        process = subprocess.Popen(command(killed), env=environment, stderr=subprocess.DEVNULL)
        before = set(checkpoints.glob("step-*"))
        while process.poll() is None and set(checkpoints.glob("step-*")) == before:
            time.sleep(0.02)
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "killed" / "final").exists()
    subprocess.run(command(killed), env=environment, check=True, capture_output=True)
    one, other = weights(tmp_path, "whole"), weights(tmp_path, "killed")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_two_processes_end_where_one_does(clip_folder, groups, tmp_path):
    environment = {**os.environ, **ENVIRONMENT}
    for name, launcher in (("one", ()), ("two", ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"))):
        recipe = write(tmp_path, name, clip_folder, groups, 4)
        subprocess.run(command(recipe, *launcher), env=environment, check=True, capture_output=True)
    assert '"processes": 2' in (tmp_path / "two" / "environment.json").read_text()
    one, two = weights(tmp_path, "one"), weights(tmp_path, "two")
    start = load_file(clip_folder / "model.safetensors")
    assert max((one[name] - start[name]).abs().max().item() for name in one) > 1e-3
    assert (
        max((one[name] - two[name]).abs().max().item() for name in one) < 1e-4
    )  # AdamW divides tiny gradients by their own size
