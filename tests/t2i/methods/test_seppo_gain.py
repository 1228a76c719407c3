"""SePPO learns from pictures that are liked, and better than its own, without any loser: minutes."""

from __future__ import annotations

import io

import numpy as np
import pytest

from palate.datasets.group import Group
from palate.datasets.parquet import write_groups
from palate.datasets.shapes.prompts import draw_prompts, draw_scene
from palate.datasets.shapes.world import render
from palate.rewards.shapes_oracle import ShapesOracle
from palate.t2i.align import align
from palate.t2i.gallery import load_lora
from palate.t2i.generate import generate
from palate.t2i.models.checkpoint import find_checkpoint
from palate.t2i.models.model import TextToImageModel
from palate.t2i.models.sampling import sampling_for
from palate.t2i.recipe import Recipe
from palate.t2i.recipes import recipe_file
from palate.training.recipe import read_recipe


def scores(path: str, lora: str | None) -> np.ndarray:
    """The oracle's mean score of three pictures of each of some 300 held-out prompts, by the model's own sampler."""
    model = TextToImageModel(find_checkpoint(path))
    distinct = dict.fromkeys(prompt.text for prompt in draw_prompts(360, 1, held_out=True))
    prompts = [prompt for prompt in distinct for _ in range(3)]
    sampling = sampling_for(model, 8, 1.0, batch_size=60)
    pictures = generate(model, prompts, range(50000, 50000 + len(prompts)), sampling, load_lora(model, lora))
    return ShapesOracle().score(prompts, list(pictures)).reshape(-1, 3).mean(1)


def liked(count: int):
    """One picture each, drawn as its prompt says."""
    rng = np.random.default_rng(0)
    for number, prompt in enumerate(draw_prompts(count, 0, held_out=False)):
        file = io.BytesIO()
        render(draw_scene(prompt, rng)).save(file, "PNG")
        yield Group(f"g{number}", prompt.text, (file.getvalue(),), (1.0,))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("path", ["tiny-sdxl", "tiny-sd3"])
def test_held_out_prompts_are_drawn_better(path, tmp_path):
    write_groups(liked(1200), tmp_path / "liked")
    values = read_recipe(recipe_file(f"{path}-seppo"), [])
    values["data"] = {"path": str(tmp_path / "liked"), "cache": str(tmp_path / "cache")}
    values["method"] |= {"steps": 8}
    values["training"] |= {"steps": 150, "learning_rate": 1e-3, "sample_every": None, "trackers": (), "workers": 0}
    values["validation"] = {}
    values["output"] = {"folder": str(tmp_path / "run"), "kohya": False}
    summary = align(Recipe.model_validate(values), lambda line: None)
    gain = scores(path, str(summary.final)) - scores(path, None)
    low, high = (gain.mean() + side * 1.96 * gain.std(ddof=1) / np.sqrt(len(gain)) for side in (-1, 1))
    print(f"seppo on {path}: {gain.mean():+.3f} [{low:+.3f}, {high:+.3f}]")
    assert low > 0
