"""The tiny models learn from the oracle's judgement of their own pictures: minutes each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from palate.datasets.shapes.prompts import draw_prompts
from palate.rewards.shapes_oracle import ShapesOracle
from palate.t2i.gallery import load_lora
from palate.t2i.generate import generate
from palate.t2i.models.checkpoint import find_checkpoint
from palate.t2i.models.model import TextToImageModel
from palate.t2i.models.sampling import sampling_for
from palate.t2i.online.fit import align_online
from palate.t2i.online.recipe import OnlineRecipe
from palate.t2i.recipes import recipe_file
from palate.training.recipe import read_recipe

METHODS: dict[str, dict[str, Any]] = {
    # The oracle's scores are shares of a prompt's demands, and two demands make a pair here: 4 (1 - 0.5) = 2 logits.
    "spo": {"name": "spo", "scale": 4.0, "threshold": 0.2, "k": 4, "inner_steps": 0, "divert_start": 1, "steps": 10},
    "d3po": {"name": "d3po", "pictures": 4, "steps": 10},
}


def scores(path: str, lora: str | None) -> np.ndarray:
    """The oracle's mean score of four pictures of each of some 300 held-out prompts, by the model's own sampler."""
    model = TextToImageModel(find_checkpoint(path))
    distinct = dict.fromkeys(prompt.text for prompt in draw_prompts(360, 1, held_out=True))
    prompts = [prompt for prompt in distinct for _ in range(4)]
    sampling = sampling_for(model, 8, 1.0, batch_size=60)
    pictures = generate(model, prompts, range(50000, 50000 + len(prompts)), sampling, load_lora(model, lora))
    return ShapesOracle().score(prompts, list(pictures)).reshape(-1, 4).mean(1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("method", ["spo", "d3po"])
@pytest.mark.parametrize("path", ["tiny-sdxl", "tiny-sd3"])
def test_held_out_prompts_are_drawn_better(path, method, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(prompt.text for prompt in draw_prompts(256, 0, held_out=False)))
    lora = read_recipe(recipe_file(f"{path}-dpo"), [])["model"]["lora"]
    quick = {"steps": 100, "batch_size": 16, "micro_batch": 16, "learning_rate": 1e-3, "schedule": "linear"}
    values = {
        "model": {"path": path, "lora": lora},
        "data": {"path": str(prompts), "cache": str(tmp_path / "cache")},
        "method": {**METHODS[method], "judge": {"name": "shapes_oracle"}, "guidance": 1.0},
        "training": {**quick, "warmup_steps": 5, "workers": 0, "validate_every": None, "trackers": ()},
        "output": {"folder": str(tmp_path / "run"), "kohya": False},
    }
    summary = align_online(OnlineRecipe.model_validate(values), lambda line: None)
    gain = scores(path, str(Path(summary.final))) - scores(path, None)
    low, high = (gain.mean() + side * 1.96 * gain.std(ddof=1) / np.sqrt(len(gain)) for side in (-1, 1))
    print(f"{method} on {path}: {gain.mean():+.3f} [{low:+.3f}, {high:+.3f}]")
    assert low > 0
