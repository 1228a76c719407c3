"""An online recipe, carried out: read the prompts, open the judge, load the network, train, write the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ...datasets.converted import Say
from ...datasets.digest import digest
from ...training.loop import train
from ...training.processes import ignore, ignore_progress, process_state
from ...training.run_folder import (
    RunFolder,
    Summary,
    keep_data,
    keep_weights,
    require_same_data,
    require_same_weights,
)
from ..align import (
    autocast_dtype,
    checkpointing,
    encode_validation,
    make_policy,
    open_model,
    refuse,
    sampler,
    say_rounding,
    set_up,
)
from ..fingerprint import training_fingerprint
from ..finish import finish
from ..generate import draw_pictures
from ..models.model import TextToImageModel
from ..models.sampling import sampling_for
from ..prepare import Advance
from .conditions import EncodedPrompts, encode_prompts
from .judging import PictureJudge, open_judge
from .prompts import open_training_prompts
from .recipe import OnlineRecipe
from .task import OnlineTask
from .workload import online_workload


def align_online(recipe: OnlineRecipe, say: Say = print, advance: Advance | None = None) -> Summary:
    """Train as `recipe` says, from where its run folder stands, and write the final weights with their model card.

    Args:
        say: takes the notices of preparation, one line each.
        advance: takes the progress of preparation, `(stage, done, total)`.

    Raises:
        UserError: what the recipe asks for cannot be had; nothing has been written half.
        PalateError: a full disk, lost memory, a loss that is not finite, or a judge that never gives a score.
    """
    state = process_state()
    device = torch.device(state.device or "cpu")
    if not state.is_main_process:
        say, advance = ignore, None
    model = open_model(recipe.model, recipe.training.precision, device)
    method, resolution = recipe.method.build(model.family.name), recipe.data.resolution or model.resolution
    refuse(recipe, model, state.num_processes, ("reward",) if recipe.data.holdout else ())
    say_rounding(recipe.model, say)
    method.parts(model.process)  # refuses settings that leave no step
    recompute = checkpointing(recipe.training, online_workload(recipe, method, resolution), device)
    prompts = open_training_prompts(recipe.data, say)
    data = {"hash": prompts.hash, "groups": len(prompts.train)}
    judge = open_judge(recipe.method.judge, model.family.name, device)
    # The others find what the main process has encoded.
    with state.main_process_first():
        run = RunFolder(Path(recipe.output.folder))
        weights = digest(training_fingerprint(model.checkpoint), judge.fingerprint)
        begun_from = f"{recipe.model.path} and the judge {judge.name}"
        require_same_weights(run, weights, begun_from)
        require_same_data(run, data)
        watched = prompts.held_out[: recipe.validation.pictures]
        wanted = [*prompts.train, *watched]
        encoded = encode_prompts(model, wanted, recipe.data.cache, resolution, say, advance or ignore_progress)
        conditions = encode_validation(model, recipe.validation)
    policy = make_policy(model, recipe.model, recipe.training.seed)
    if state.is_main_process:
        keep_data(run, data)  # not before: a start that fails leaves nothing behind
        keep_weights(run, weights, begun_from)
    set_up(policy.network, recompute, recipe.training.compile)
    task = OnlineTask(
        model=model,
        policy=policy,
        method=method,
        prompts=prompts.train,
        encoded=encoded,
        judge=judge,
        seed=recipe.training.seed,
        resolution=resolution,
        autocast=autocast_dtype(recipe.training.precision),
        draw_samples=sampler(model, recipe.validation, resolution, conditions) if conditions else None,
        validation=held_out_reward(model, recipe, encoded, judge, watched) if watched else None,
    )
    summary = train(task, recipe.training, Path(recipe.output.folder), recipe=recipe.model_dump(mode="json"))
    if summary.finished and state.is_main_process:
        finish(recipe, summary, data, model.checkpoint, say)
    return summary


def held_out_reward(
    model: TextToImageModel,
    recipe: OnlineRecipe,
    encoded: EncodedPrompts,
    judge: PictureJudge,
    prompts: Sequence[str],
) -> Callable[[nn.Module], dict[str, float]]:
    """The judge's mean score of one picture of each prompt, from the same seeds each time, by the model's own sampler.

    Pictures without a score are left out; without any the mean is NaN.
    """
    settings = recipe.validation
    sampling = sampling_for(model, settings.steps, settings.guidance, recipe.data.resolution, settings.batch_size)
    conditions, empty = encoded.rows(prompts), encoded.rows([""])
    seeds = [settings.seed + number for number in range(len(prompts))]

    def measure(network: Any) -> dict[str, float]:
        bare = getattr(network, "module", network)  # out of DistributedDataParallel's wrapper
        pictures = draw_pictures(model, model.pipeline(bare), conditions, empty, seeds, sampling)
        levels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2)
        scores = judge.score(prompts, levels.to(model.device) / 255, torch.zeros(len(prompts), device=model.device))
        return {"reward": float(scores.nanmean())}

    return measure
