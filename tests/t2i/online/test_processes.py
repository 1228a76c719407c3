"""Two processes do what one process does with the same global batch."""

from __future__ import annotations

import subprocess
import sys

import yaml
from safetensors.torch import load_file

WEIGHTS = "final/pytorch_lora_weights.safetensors"


def test_two_processes_end_where_one_does(recipe_for, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    for name, launcher in (("one", [sys.executable]), ("two", torchrun)):
        training = {"micro_batch": 1, "steps": 2, "validate_every": None}
        recipe = recipe_for("tiny-sd3", "spo", training=training, output={"folder": str(tmp_path / name)})
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
        done = subprocess.run([*launcher, "-m", "palate", "train", str(file)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    assert '"processes": 2' in (tmp_path / "two" / "environment.json").read_text()
    one, two = (load_file(tmp_path / name / WEIGHTS) for name in ("one", "two"))
    assert max(weight.abs().max().item() for name, weight in one.items() if "lora_B" in name) > 1e-5
    assert max((one[name] - two[name]).abs().max().item() for name in one) < 1e-5
