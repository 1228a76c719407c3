"""The example scripts train the tiny models for two steps and write a LoRA that diffusers opens without palate."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import palate
from palate.datasets.group import Group
from palate.datasets.parquet import write_groups
from palate.datasets.shapes.prompts import draw_prompts, draw_scene
from palate.datasets.shapes.world import render
from palate.t2i.models.checkpoint import find_checkpoint

SCRIPTS = Path(palate.__file__).parent / "examples"


@pytest.fixture(scope="module")
def eight_pairs(tmp_path_factory) -> Path:
    rng = np.random.default_rng(0)

    def png(prompt) -> bytes:
        buffer = io.BytesIO()
        render(draw_scene(prompt, rng)).save(buffer, "PNG")
        return buffer.getvalue()

    folder = tmp_path_factory.mktemp("data") / "pairs"
    prompts = draw_prompts(8, seed=0, held_out=False)
    write_groups((Group(p.text, p.text, (png(p), png(p)), (1.0, 0.0)) for p in prompts), folder)
    return folder


@pytest.mark.parametrize("family", ["sdxl", "sd3"])
def test_two_steps_give_a_lora_that_diffusers_opens(family, eight_pairs, tmp_path):
    import diffusers
    from peft.tuners.tuners_utils import BaseTunerLayer

    checkpoint = find_checkpoint(f"tiny-{family}")
    arguments = ["--data", eight_pairs, "--output", tmp_path / "out", "--steps", "2", "--batch-size", "8"]
    command = [sys.executable, SCRIPTS / f"train_{family}_dpo.py", "--model", f"tiny-{family}", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert ran.returncode == 0, ran.stderr
    lines = re.findall(r"step (\d): loss (\S+), winner_gain (\S+), loser_gain (\S+)", ran.stdout)
    assert [line[0] for line in lines] == ["1", "2"]
    assert float(lines[0][1]) == pytest.approx(0.6931, abs=1e-4)  # policy = reference: ln 2
    assert float(lines[1][2]) != 0

    pipeline = getattr(diffusers, checkpoint.family.pipeline).from_pretrained(checkpoint.path)
    network = getattr(pipeline, checkpoint.family.network)
    targets = tuple(f".{target}" for target in checkpoint.family.lora_targets)
    wanted = {name for name, _ in network.named_modules() if name.endswith(targets)}
    pipeline.load_lora_weights(tmp_path / "out")
    adapted = {name: module for name, module in network.named_modules() if isinstance(module, BaseTunerLayer)}
    assert set(adapted) == wanted
    untrained = {name for name, layer in adapted.items() if not layer.lora_B["default_0"].weight.any()}
    # What the last block's text asks of attention goes nowhere, so no gradient reaches it.
    assert untrained == ({"transformer_blocks.4.attn.add_q_proj"} if family == "sd3" else set())


@pytest.mark.parametrize("family", ["sdxl", "sd3"])
def test_a_script_is_read_in_one_go(family):
    assert len((SCRIPTS / f"train_{family}_dpo.py").read_text().splitlines()) < 60
