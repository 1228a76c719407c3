"""Where a step's numbers live, and how many pictures and passes a method makes of a group."""

from contextlib import nullcontext
from functools import partial

import pytest
import torch

from palate.objectives import dpo
from palate.t2i.method import Method
from palate.t2i.methods import SePPO
from palate.t2i.models.checkpoint import find_checkpoint
from palate.t2i.models.model import TextToImageModel
from palate.t2i.models.policy import LoraPolicy, LoraSettings
from palate.t2i.prepare import prepare
from palate.t2i.recipe import DataConfig, Recipe
from palate.t2i.recipes import recipe_file
from palate.t2i.task import AlignmentTask
from palate.t2i.workload import workload_of
from palate.training.loader import to_device
from palate.training.recipe import load_recipe
from palate.training.task import Visit


@pytest.mark.parametrize("path", ["tiny-sdxl", "tiny-sd3"])
def test_a_step_leaves_no_number_on_the_host(path, pairs, tmp_path, monkeypatch):
    """On another device than the host's, a metric left behind could not be averaged with the rest."""
    model = TextToImageModel(find_checkpoint(path))
    build = Method("test", objective=partial(dpo, beta=2000.0), temperature=1000.0)
    ready = prepare(model, DataConfig(path=str(pairs), cache=str(tmp_path)), build, seed=0, say=lambda line: None)
    task = AlignmentTask(model, LoraPolicy(model.network, model.checkpoint, LoraSettings()), build, ready, seed=0)
    batch = task.collate([task.item(Visit(0, 0)), task.item(Visit(1, 1))])
    # The meta device has no autocast, which both the task and peft open.
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())
    monkeypatch.setattr(model, "predict", lambda network, noisy, times, conditions: noisy)
    loss, metrics = task.loss(to_device(batch, torch.device("meta")))
    assert {value.device.type for value in (loss, *metrics.values())} == {"meta"}


@pytest.mark.parametrize(("guidance", "passes"), [(5.0, 40), (1.0, 20)])
def test_a_rival_is_a_picture_more_and_its_drawing_is_counted(guidance, passes):
    """20 sampling steps for one of the two pictures, each twice with guidance."""
    recipe = load_recipe(recipe_file("sdxl-seppo-lora"), ["training.micro_batch=4", "training.batch_size=4"], Recipe)
    work = workload_of(recipe, SePPO(steps=20, guidance=guidance).build(1))
    assert (work.candidates, work.images, work.calls, work.reference) == (2, 8, passes / 2, True)
