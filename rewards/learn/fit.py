"""A reward-model recipe, carried out: look at the data, load the network, train, write the result and its report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from ...datasets.converted import Say, open_converted
from ...datasets.digest import digest
from ...datasets.open import detect_format
from ...datasets.skips import SkipLog
from ...errors import UserError
from ...training.early_stop import require_metric
from ...training.loop import train
from ...training.processes import ignore, ignore_progress, process_state
from ...training.refuse import refuse_early
from ...training.run_folder import RunFolder, Summary, keep_data, keep_weights, require_same_recipe
from .held_out import table
from .learner import Learner
from .losses import LOSSES, PairLoss, btt_loss
from .plan import Plan, make_plan, split_plan, without_faults, without_ties
from .recipe import BlipConfig, DataConfig, RewardModel, RewardRecipe, VlmConfig
from .task import REPORTED, RewardTask

Advance = Callable[[str, int, int], None]
"""`(stage, done, total)`: called as preparation goes on."""

REPORT = "held_out.json"
"""The last validation's report, in the run folder."""


def fit_reward(recipe: RewardRecipe, say: Say = print, advance: Advance | None = None) -> Summary:
    """Train as `recipe` says, from where its run folder stands; the final weights open in `palate score`.

    Args:
        say: takes the notices of preparation and the report, one line each.
        advance: takes the progress of preparation.

    Raises:
        UserError: what the recipe asks for cannot be had; nothing has been written half.
        PalateError: a full disk, lost memory, or a loss that is not finite.
    """
    state = process_state()
    if not state.is_main_process:
        say, advance = ignore, None
    folder = Path(recipe.output.folder)
    _refuse_early(recipe, folder, state.num_processes)
    learner = open_learner(recipe)
    pair_loss = loss_of(recipe.method)
    # The others find what the main process has converted.
    with state.main_process_first():
        train_plan, held_out = _plans(recipe.data, pair_loss, learner, say, advance or ignore_progress)
        data_hash = digest(train_plan.data_hash, held_out.data_hash if held_out else "")
        run = RunFolder(folder)
        keep_data(run, {"hash": data_hash, "groups": len(train_plan)})
        keep_weights(run, fingerprint(learner.network), recipe.model.path or "the hub's weights")
    task = RewardTask(
        learner=learner,
        train=train_plan,
        held_out=held_out,
        pair_loss=pair_loss,
        seed=recipe.training.seed,
        batch_size=recipe.training.batch_size,
        micro_batch=recipe.training.micro_batch,
        report_file=folder / REPORT,
    )
    summary = train(task, recipe.training, folder, recipe=recipe.model_dump(mode="json"))
    if summary.finished and state.is_main_process:
        _tell(summary, learner, say)
    return summary


def open_learner(recipe: RewardRecipe) -> Learner:
    """The network that a recipe starts from, on the CPU.

    Raises UserError if it cannot be loaded.
    """
    if isinstance(recipe.model, BlipConfig):
        from .blip import open_blip_learner

        learner = open_blip_learner(recipe.model, recipe.training.seed)
        towers = [learner.network.vision, learner.network.text]
    elif isinstance(recipe.model, VlmConfig):
        from .vlm import open_vlm_learner

        # Autocast rounds a frozen weight to bfloat16 at every use: kept so, it takes half the memory.
        frozen = torch.bfloat16 if recipe.training.precision == "bf16" else torch.float32
        learner = open_vlm_learner(recipe.model, recipe.training.seed, frozen)
        towers = [learner.network.model.qwen]
    else:
        from .clip import open_clip_learner

        learner = open_clip_learner(recipe.model)
        towers = [learner.network.model]
    if recipe.training.gradient_checkpointing is True:
        for tower in towers:
            tower.gradient_checkpointing_enable({"use_reentrant": False})
    return learner


def loss_of(method: RewardModel) -> PairLoss:
    """The loss that a recipe names, with its constants."""
    chosen = LOSSES[method.loss]
    return chosen if method.k is None else replace(chosen, function=partial(btt_loss, k=method.k))


def fingerprint(network: nn.Module) -> str:
    """A hash of every weight's name and bytes: a checkpoint holds the trained ones alone, the others come from here."""
    state = hashlib.blake2b(digest_size=16)
    for name, tensor in network.state_dict().items():
        state.update(name.encode())
        state.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return state.hexdigest()


def _refuse_early(recipe: RewardRecipe, folder: Path, processes: int) -> None:
    """What would fail after hours of looking at pictures is told before."""
    data, training = recipe.data, recipe.training
    if folder.exists() and folder.resolve() == Path(data.path).expanduser().resolve():
        raise UserError(f"output.folder {folder} is data.path: a run beside its data; choose another output folder")
    require_same_recipe(RunFolder(folder), recipe.model_dump(mode="json"))
    if training.early_stop:
        require_metric(REPORTED if data.holdout or data.holdout_split else (), training.early_stop)
    refuse_early(training, folder, processes)
    if data.format == "auto":
        detect_format(data.path, data.split)  # a wrong path is told before gigabytes of weights are loaded


def _plans(
    data: DataConfig, pair_loss: PairLoss, learner: Learner, say: Say, advance: Advance
) -> tuple[Plan, Plan | None]:
    """What trains and what validates. Ties stay among the held-out groups unless the recipe drops them."""
    log = SkipLog()
    plan = without_faults(_plan_of(data, data.split, log, say, advance), learner.fault, log)
    if data.ties == "drop":
        plan = without_ties(plan, log)
    train_plan, held_out = split_plan(plan, data.holdout)
    if data.holdout_split:
        held_out = without_faults(_plan_of(data, data.holdout_split, log, say, advance), learner.fault, log)
        if data.ties == "drop":
            held_out = without_ties(held_out, log)
    if not pair_loss.uses_ties:
        train_plan = without_ties(train_plan, log)
    if log.total:
        say(f"{log.total} groups left out: {log.summary()}")
        for skipped in log.examples[:5]:
            say(f"  {skipped}")
    validating = f", {len(held_out)} validate" if held_out else ""
    say(f"{len(train_plan)} groups train{validating}")
    return train_plan, held_out


def _plan_of(data: DataConfig, split: str | None, log: SkipLog, say: Say, advance: Advance) -> Plan:
    store = open_converted(data.path, data.format, split, Path(data.cache).expanduser(), say)
    seen = iter(range(1, len(store) + 1))
    return make_plan(store, log, lambda: advance("looking at pictures", next(seen), len(store)))


def _tell(summary: Summary, learner: Learner, say: Say) -> None:
    file = summary.folder / REPORT
    if file.is_file():
        say(f"held-out comparisons, {file}:")
        for line in table(json.loads(file.read_text(encoding="utf-8"))):
            say(f"  {line}")
    say(f"final weights: {summary.final}")
    say(f"to score with them: palate score IMAGES {learner.how_to_score(summary.final)}")
