"""Two processes do what one process does with the same global batch.

Started by torchrun, which `accelerate launch` calls on GPUs; on CPUs it would want MPI.
"""

import subprocess
import sys

import pytest
from safetensors.torch import load_file

RECIPE = """
model: {{path: tiny-{family}, lora: {{rank: 4}}}}
data: {{path: "{data}", cache: "{cache}", caption_dropout: 0.2, flip: true, variants: 2}}
method: {{name: diffusion_dpo, beta: 2000}}
training: {{steps: 4, batch_size: 4, micro_batch: 1, learning_rate: 1.0e-4, max_grad_norm: 1.0, workers: 0}}
output: {{folder: "{run}"}}
"""


@pytest.mark.parametrize("family", ["sdxl", "sd3"])
def test_two_processes_end_where_one_does(family, pairs, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    for name, launcher in (("one", [sys.executable]), ("two", torchrun)):
        recipe = tmp_path / f"{name}.yaml"
        # Each has a cache of its own: the second process reads what the first has just encoded.
        recipe.write_text(
            RECIPE.format(family=family, data=pairs, cache=tmp_path / f"cache-{name}", run=tmp_path / name)
        )
        done = subprocess.run([*launcher, "-m", "palate", "train", str(recipe)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    environment = (tmp_path / "two" / "environment.json").read_text()
    assert '"processes": 2' in environment
    one, two = (load_file(tmp_path / n / "final" / "pytorch_lora_weights.safetensors") for n in ("one", "two"))
    assert one.keys() == two.keys()
    moved = max(weight.abs().max().item() for name, weight in one.items() if "lora_B" in name)
    assert moved > 1e-5
    assert max((one[name] - two[name]).abs().max().item() for name in one) < 1e-5
