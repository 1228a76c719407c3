"""Online recipes for the tiny models, their tasks, and judges that tell what they were asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from palate.t2i.align import make_policy, open_model
from palate.t2i.online.conditions import encode_prompts
from palate.t2i.online.judging import PictureJudge
from palate.t2i.online.recipe import OnlineRecipe
from palate.t2i.online.task import OnlineTask
from palate.training.task import Visit

PROMPTS = ["a photo of a red circle", "a photo of two crosses", "a photo of a triangle", "a view of a blue square"]
METHODS: dict[str, dict[str, Any]] = {
    "spo": {"name": "spo", "steps": 5, "divert_start": 1, "k": 3, "threshold": 0.0, "inner_steps": 0, "guidance": 3},
    "d3po": {"name": "d3po", "steps": 4, "pictures": 3, "guidance": 3},
}


@pytest.fixture(params=["tiny-sdxl", "tiny-sd3", "tiny-sd1"])
def path(request, tiny_sd1) -> str:
    """A tiny model of each kind."""
    return str(tiny_sd1) if request.param == "tiny-sd1" else request.param


@pytest.fixture
def prompt_file(tmp_path) -> Path:
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(PROMPTS))
    return file


@pytest.fixture
def recipe_for(prompt_file, warm_cache, tmp_path) -> Callable[..., OnlineRecipe]:
    """`recipe_for(path, method, section={...})`: a small recipe with these changes, judged by the oracle."""

    def build(path: str, name: str, /, **changes: dict[str, Any]) -> OnlineRecipe:
        quick = {"steps": 2, "batch_size": 2, "micro_batch": 2, "workers": 0, "trackers": (), "learning_rate": 5e-4}
        values = {
            "model": {"path": path, "lora": {"rank": 4}},
            "data": {"path": str(prompt_file), "cache": str(warm_cache)},
            "method": {**METHODS[name], "judge": {"name": "shapes_oracle"}},
            "training": {**quick, "log_every": 1, "validate_every": 1, "checkpoint_every": 1, "sample_every": None},
            "validation": {"steps": 3, "guidance": 2.0, "pictures": 2},
            "output": {"folder": str(tmp_path / "run"), "kohya": False},
        }
        return OnlineRecipe.model_validate(
            {key: {**section, **changes.get(key, {})} for key, section in values.items()}
        )

    return build


class FakeJudge(PictureJudge):
    """Scores by `rule(pixels)`, and remembers what it was asked."""

    def __init__(self, rule: Callable[[Tensor], Tensor]) -> None:
        self.asked: list[tuple[list[str], Tensor, Tensor, Tensor]] = []

        def ask(prompts: Sequence[str], pixels: Tensor, thousandths: Tensor, failures: list) -> Tensor:
            scores = rule(pixels)
            self.asked.append(([*prompts], pixels, thousandths, scores))
            return scores

        super().__init__("fake", "fake", ask)


def redness(pixels: Tensor) -> Tensor:
    """How much redder than blue a picture is; random pictures differ by about 1."""
    return 50 * (pixels[:, 0] - pixels[:, 2]).mean((1, 2))


@pytest.fixture
def red_judge() -> Callable[[], PictureJudge]:
    """A judge that prefers red and always has a preference."""
    return lambda: FakeJudge(redness)


@pytest.fixture
def task_for() -> Callable[..., OnlineTask]:
    """The task of a recipe, as `align_online` makes it, with a judge of one's own; the policy moved off the start."""

    def build(recipe: OnlineRecipe, rule: Callable[[Tensor], Tensor] = redness, moved: float = 0.02) -> OnlineTask:
        model = open_model(recipe.model, "no", "cpu")
        encoded = encode_prompts(model, PROMPTS, recipe.data.cache, model.resolution, lambda line: None)
        task = OnlineTask(
            model=model,
            policy=make_policy(model, recipe.model, 0),
            method=recipe.method.build(model.family.name),
            prompts=PROMPTS,
            encoded=encoded,
            judge=FakeJudge(rule),
            seed=recipe.training.seed,
            resolution=model.resolution,
        )
        generator = torch.Generator().manual_seed(0)
        for parameter in task.network.parameters():
            if parameter.requires_grad:
                parameter.data += moved * torch.randn(parameter.shape, generator=generator)
        return task

    return build


@pytest.fixture
def batch_of() -> Callable[..., dict[str, Any]]:
    """`batch_of(task, numbers)`: the prompts of these numbers, each at the position of its number."""

    def build(task: OnlineTask, numbers: Sequence[int]) -> dict[str, Any]:
        return task.collate([task.item(Visit(number, number)) for number in numbers])

    return build
