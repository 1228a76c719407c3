"""`palate train` killed with SIGKILL at any moment and started again ends in the same weights, bit for bit."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

RECIPE = """
model: {{path: tiny-sdxl, lora: {{rank: 4}}}}
data: {{path: "{data}", cache: "{cache}", caption_dropout: 0.2, flip: true, variants: 2}}
method: {{name: diffusion_dpo, beta: 2000}}
training: {{steps: 60, batch_size: 4, micro_batch: 2, learning_rate: 1.0e-3, ema: 0.9, checkpoint_every: 5, workers: 0}}
validation: {{prompts: [a photo of a red circle], steps: 2}}
output: {{folder: "{run}"}}
"""


def digests(run: Path) -> dict[str, str]:
    """Hashes of every final tensor's bytes, by file and name; safetensors writes a file's metadata in any order."""
    return {
        f"{file.name}: {name}": hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
        for file in (run / "final").glob("*.safetensors")
        for name, tensor in load_file(file).items()
    }


def train(recipe: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "palate", "train", str(recipe)]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_three_times_ends_in_the_same_weights(pairs, tmp_path):
    recipes = {}
    for name in ("whole", "killed"):
        recipes[name] = tmp_path / f"{name}.yaml"
        recipes[name].write_text(RECIPE.format(data=pairs, cache=tmp_path / "cache", run=tmp_path / name))
    assert train(recipes["whole"]).wait() == 0

    metrics, rng, kills = tmp_path / "killed" / "checkpoints", random.Random(0), 0
    while kills < 3:
        process = train(recipes["killed"])
        before = set(metrics.glob("*"))
        while process.poll() is None and set(metrics.glob("*")) == before:
            time.sleep(0.05)  # until it has got further than the last one did
        assert process.poll() is None, "it ended before it could be killed three times"
        time.sleep(rng.uniform(0, 0.8))
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    assert train(recipes["killed"]).wait() == 0
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")
    assert {name.split(":")[0] for name in digests(tmp_path / "whole")} == {
        "kohya.safetensors",
        "pytorch_lora_weights.safetensors",
    }
