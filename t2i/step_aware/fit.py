"""A step-aware recipe, carried out: prepare the pairs, load the networks, train, write the result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from ...datasets.converted import Say
from ...datasets.digest import digest
from ...errors import UserError
from ...rewards.learn.clip import train_blocks
from ...rewards.learn.fit import fingerprint
from ...rewards.scorer import open_scorer
from ...rewards.step_aware import StepAware, open_step_aware
from ...training.early_stop import require_metric
from ...training.loop import train
from ...training.processes import ignore, ignore_progress, process_state
from ...training.refuse import refuse_early, require_folder
from ...training.run_folder import (
    RunFolder,
    Summary,
    keep_data,
    keep_weights,
    require_same_data,
    require_same_recipe,
    require_same_weights,
)
from ..cache import TensorCache
from ..fingerprint import training_fingerprint
from ..method import Method
from ..models.architectures import find_architecture
from ..models.checkpoint import find_checkpoint
from ..models.model import TextToImageModel, require_xformers
from ..models.sides import require_side
from ..plan import Plan
from ..prepare import Advance, Prepared, open_store, prepare
from ..sources import LiveSource
from ..workload import settled_dtype
from .config import FrozenModel, RewardLabels, StepAwareMethod, StepAwareRecipe
from .labels import UNSCORED, label_by_reward
from .task import StepAwareTask, accuracy_at


def fit_step_aware(recipe: StepAwareRecipe, say: Say = print, advance: Advance | None = None) -> Summary:
    """Train as `recipe` says, from where its run folder stands; `open_step_aware` opens the final weights.

    Args:
        say: takes the notices of preparation, one line each.
        advance: takes the progress of preparation, `(stage, done, total)`.

    Raises:
        UserError: what the recipe asks for cannot be had; nothing has been written half.
        PalateError: a full disk, lost memory, or a loss that is not finite.
    """
    state = process_state()
    device = torch.device(state.device or "cpu")
    if not state.is_main_process:
        say, advance = ignore, None
    advance = advance or ignore_progress
    model = open_frozen(recipe.model, recipe.training.precision, device)
    _refuse_early(recipe, model, state.num_processes)
    judge = open_judge(recipe.method, recipe.training.seed)
    if recipe.training.gradient_checkpointing is True:
        judge.network.recompute_activations()
    run = RunFolder(Path(recipe.output.folder))
    weights = digest(training_fingerprint(model.checkpoint), fingerprint(judge.network))
    begun_from = f"{recipe.model.path} and {recipe.method.start}"
    require_same_weights(run, weights, begun_from)  # told before hours of encoding
    # The others find what the main process has encoded and scored.
    with state.main_process_first():
        prepared = prepared_pairs(model, recipe, say, advance)
        data = {"hash": prepared.train.data_hash, "groups": len(prepared.train)}
        require_same_data(run, data)
        empty = model.encode_prompts([""])
    if not isinstance(prepared.source, LiveSource):
        model.free("text")
    _ = model.network, model.vae  # what cannot be loaded is told before anything is written
    if state.is_main_process:
        keep_data(run, data)
        keep_weights(run, weights, begun_from)
    task = StepAwareTask(
        model=model,
        judge=judge,
        prepared=prepared,
        empty=empty,
        guidance=recipe.method.guidance,
        evaluate_at=recipe.method.evaluate_at,
        seed=recipe.training.seed,
        batch_size=recipe.training.batch_size,
        micro_batch=recipe.training.micro_batch,
        variants=recipe.data.variants,
    )
    summary = train(task, recipe.training, run.path, recipe=recipe.model_dump(mode="json"))
    if summary.finished and state.is_main_process:
        say(f"final weights: {summary.final}")
    return summary


def open_frozen(config: FrozenModel, precision: str, device: torch.device | str) -> TextToImageModel:
    """The checkpoint that a recipe names, identified and not yet loaded."""
    checkpoint = find_checkpoint(config.path, config.family, config.revision, config.variant)
    dtype = getattr(torch, settled_dtype(config.dtype, "lora", precision))  # as of any frozen weights
    return TextToImageModel(checkpoint, dtype, device, config.attention)


def open_judge(config: StepAwareMethod, seed: int) -> StepAware:
    """The preference model that a recipe starts from, on the CPU in float32, trainable as the recipe says.

    Raises UserError if it cannot be loaded, or has fewer blocks than are to be trained.
    """
    judge = open_step_aware(config.start, config.tokenizer, seed=seed)
    model = judge.tower.model
    for name, tower in (("text", model.text_model), ("vision", model.vision_model)):
        asked, there = getattr(config.train, name), len(tower.encoder.layers)
        if asked is not None and asked > there:
            raise UserError(f"method.train.{name} is {asked} and the {name} tower has {there} blocks; give fewer")
    train_blocks(model, config.train.text, config.train.vision)
    judge.network.time.requires_grad_(True)
    return judge


def prepared_pairs(model: TextToImageModel, recipe: StepAwareRecipe, say: Say, advance: Advance) -> Prepared:
    """Encoded pairs with the labels that the recipe asks for."""
    prepared = prepare(model, recipe.data, _pairs(), recipe.training.seed, say, advance)
    wanted = recipe.method.labels
    if wanted is None:
        return prepared
    assets = {"weights": wanted.weights, "tokenizer": wanted.tokenizer}
    given = {name: value for name, value in assets.items() if value is not None}
    scorer = open_scorer(wanted.reward, device=model.device, **given)
    store = open_store(recipe.data, ignore)
    cache = None if recipe.data.cache is None else TensorCache(Path(recipe.data.cache))

    def labelled(plan: Plan) -> Plan:
        fresh = label_by_reward(
            plan, store, scorer, wanted.scale, wanted.gap, cache, lambda done: advance("scoring", done, len(plan))
        )
        if lost := fresh.skipped.get(UNSCORED):
            say(f"{lost} groups are left out: {scorer.name} has no score for a picture of theirs")
        return _without_ties(fresh, wanted) if recipe.data.ties == "drop" else fresh

    held_out = None if prepared.held_out is None else labelled(prepared.held_out)
    return replace(prepared, train=labelled(prepared.train), held_out=held_out)


def _without_ties(plan: Plan, wanted: RewardLabels) -> Plan:
    decided = [number for number in range(len(plan)) if len(set(plan[number].labels)) > 1]
    if not decided:
        raise UserError(
            f"all {len(plan)} groups are ties for {wanted.reward} at a gap of {wanted.gap}, and data.ties is drop; "
            "lower method.labels.gap or raise method.labels.scale"
        )
    return plan.subset(decided)


def _pairs() -> Method:
    """How preparation reads groups: the best and the worst of each. The loss is the task's own."""

    def objective(*args: object, **kwargs: object) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        raise NotImplementedError("a step-aware preference model has no denoising error")

    return Method(name="step_aware", objective=objective, needs_reference=False)


def _refuse_early(recipe: StepAwareRecipe, model: TextToImageModel, processes: int) -> None:
    """What would fail after hours of encoding or training is told before anything is written."""
    data, training, folder = recipe.data, recipe.training, Path(recipe.output.folder)
    if folder.exists() and folder.resolve() == Path(data.path).expanduser().resolve():
        raise UserError(f"output.folder {folder} is data.path: a run beside its data; choose another output folder")
    model.checkpoint.require_whole()
    architecture = find_architecture(recipe.model.path, recipe.model.revision)
    require_side(architecture, data.resolution or model.resolution)
    _ = model.process  # reads the scheduler's config
    require_same_recipe(RunFolder(folder), recipe.model_dump(mode="json"))
    if recipe.model.attention == "xformers":
        require_xformers()
    if training.early_stop:
        known = {"accuracy", *map(accuracy_at, recipe.method.evaluate_at)} if data.holdout else set()
        require_metric(known, training.early_stop)
    if data.cache is not None:
        require_folder(Path(data.cache).expanduser(), f"data.cache: the folder {data.cache}")
    refuse_early(training, folder, processes)
