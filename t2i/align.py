"""A recipe, carried out: prepare the data, load the network, train, write the result."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import UserError
from ..training.cards import device_capacity
from ..training.config import TrainingConfig
from ..training.early_stop import require_metric
from ..training.loop import train
from ..training.processes import ignore, process_state
from ..training.refuse import refuse_early, require_folder
from ..training.run_folder import (
    RunFolder,
    Summary,
    keep_data,
    keep_weights,
    require_same_data,
    require_same_recipe,
    require_same_weights,
)
from ..training.task import sample_path
from .estimate import flops_per_pair
from .fingerprint import training_fingerprint
from .finish import finish
from .generate import draw_pictures
from .grid import save_grid
from .hub import check_can_push
from .memory import choose_checkpointing
from .method import Method
from .models.architectures import find_architecture
from .models.checkpoint import find_checkpoint
from .models.family import Conditions
from .models.model import TextToImageModel, require_xformers
from .models.policy import FullPolicy, LoraPolicy, Policy
from .models.sampling import sampling_for
from .models.sides import require_side
from .online.recipe import OnlineRecipe
from .plan import Plan
from .prepare import Advance, Say, prepare
from .recipe import ModelConfig, Recipe, ValidationConfig
from .replay import ReplayedPolicy
from .task import AlignmentTask
from .workload import Workload, settled_dtype, workload_of


def align(recipe: Recipe, say: Say = print, advance: Advance | None = None) -> Summary:
    """Train as `recipe` says, from where its run folder stands, and write the final weights with their model card.

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
    model = open_model(recipe.model, recipe.training.precision, device)
    method = recipe.method.build(_elements(model, recipe))
    known = validation_numbers(method, model.device) if recipe.data.holdout else ()
    fixed = ("training.micro_batch",) if method.over_batch else ()
    refuse(recipe, model, state.num_processes, known, fixed)
    if method.rival is None:
        say_rounding(recipe.model, say)
    resolution = recipe.data.resolution or model.resolution
    # The least that it can be: memory and LoRA targets that will not do are told before hours of encoding.
    least = workload_of(recipe, method, resolution, method.candidates or method.fewest)
    checkpointing(recipe.training, least, device)
    # The others find what the main process has encoded.
    with state.main_process_first():
        run = RunFolder(Path(recipe.output.folder))
        weights = training_fingerprint(model.checkpoint)
        require_same_weights(run, weights, model.checkpoint.path)  # told before hours of encoding
        prepared = prepare(model, recipe.data, method, recipe.training.seed, say, advance)
        plan = prepared.train
        _refuse_lone(recipe, method, plan, state.num_processes)
        data = {"hash": plan.data_hash, "groups": len(plan)}
        require_same_data(run, data)
        conditions = encode_validation(model, recipe.validation)
    work = workload_of(recipe, method, resolution, plan.size)
    recompute = checkpointing(recipe.training, work, device)
    policy = make_policy(model, recipe.model, recipe.training.seed, method.needs_reference and method.rival is None)
    if method.rival:
        policy = ReplayedPolicy(policy, run.path / "references", recipe.training.seed, method.rival.every)
    if state.is_main_process:
        keep_data(run, data)  # not before: a start that fails leaves nothing behind
        keep_weights(run, weights, model.checkpoint.path)
    set_up(policy.network, recompute, recipe.training.compile)
    task = AlignmentTask(
        model=model,
        policy=policy,
        method=method,
        prepared=prepared,
        seed=recipe.training.seed,
        caption_dropout=recipe.data.caption_dropout,
        variants=recipe.data.variants,
        micro_batch=recipe.training.micro_batch,
        visits=recipe.training.steps * recipe.training.batch_size,
        easiest=prepared.easiest,
        autocast=autocast_dtype(recipe.training.precision),
        draw_samples=sampler(model, recipe.validation, recipe.data.resolution, conditions) if conditions else None,
        at_step=policy.at_step if isinstance(policy, ReplayedPolicy) else None,
        flops_per_group=flops_per_pair(work) if device.type == "cuda" else None,
    )
    summary = train(task, recipe.training, Path(recipe.output.folder), recipe=recipe.model_dump(mode="json"))
    if summary.finished and state.is_main_process:
        finish(recipe, summary, {**data, "left out": plan.skipped}, model.checkpoint, say)
    return summary


def refuse(
    recipe: Recipe | OnlineRecipe,
    model: TextToImageModel,
    processes: int,
    numbers: Collection[str],
    fixed: Collection[str] = (),
) -> None:
    """What would fail after hours of encoding or training is told before anything is written.

    Args:
        numbers: the names of a validation's numbers.
        fixed: keys of the recipe that may change in other runs, and decide a step's result in this one.
    """
    training, folder = recipe.training, Path(recipe.output.folder)
    if folder.exists() and folder.resolve() == Path(recipe.data.path).expanduser().resolve():
        raise UserError(f"output.folder {folder} is data.path: a run beside its data; choose another output folder")
    model.checkpoint.require_whole()
    _refuse_side(recipe, model)
    _ = model.process  # reads the scheduler's config
    require_same_recipe(RunFolder(folder), recipe.model_dump(mode="json"), fixed)
    if recipe.model.attention == "xformers":
        require_xformers()
    if recipe.output.push_to:
        check_can_push(recipe.output.push_to)
    if training.early_stop:
        require_metric(numbers, training.early_stop)
    if recipe.data.cache is not None:
        require_folder(Path(recipe.data.cache).expanduser(), f"data.cache: the folder {recipe.data.cache}")
    refuse_early(training, folder, processes)


def say_rounding(config: ModelConfig, say: Say) -> None:
    """What a reference in another precision than the policy costs."""
    if config.tuning == "full" and config.reference.dtype != "same":
        say(
            f"model.reference.dtype is {config.reference.dtype}: the reference rounds otherwise than the policy, "
            "and small margins are there before the first step; `same` costs memory and is exact"
        )


def _refuse_lone(recipe: Recipe, method: Method, plan: Plan, processes: int) -> None:
    """A single candidate's reference point would be the candidate itself, which cancels what it says."""
    if method.over_batch and plan.size == 1 and recipe.training.micro_batch * processes == 1:
        raise UserError(
            "training.micro_batch is 1, and the objective compares a candidate with the mean of its micro-batch: "
            "set it to 8 or more for groups of one"
        )


def _refuse_side(recipe: Recipe | OnlineRecipe, model: TextToImageModel) -> None:
    architecture = find_architecture(recipe.model.path, recipe.model.revision)
    resolution = recipe.data.resolution or model.resolution
    require_side(architecture, resolution)
    if recipe.validation.prompts and recipe.training.sample_every:
        require_side(architecture, resolution, drawing=True)


def validation_numbers(method: Method, device: torch.device | str = "cpu") -> set[str]:
    """The names of a validation's numbers: an objective names the same ones in every call."""
    nothing = torch.zeros(1, method.compared(method.fewest), device=device)
    rows = {"drift": nothing, "overlap": torch.zeros(1, 2, device=device), "progress": nothing[:, 0]}
    extras: dict[str, Any] = {name: rows[name] for name in method.reads}
    _, metrics = method.objective(nothing, nothing if method.needs_reference else None, nothing, **extras)
    named = {*metrics, "loss"} | ({"temperature"} if method.temperature is not None else set())
    return named - {"accuracy_count"}  # the accuracy's weight, and no number of its own


def open_model(config: ModelConfig, precision: str, device: torch.device | str) -> TextToImageModel:
    """The checkpoint that a recipe names, identified and not yet loaded.

    Frozen weights take the training precision; weights that are trained stay float32.
    """
    checkpoint = find_checkpoint(config.path, config.family, config.revision, config.variant)
    name = settled_dtype(config.dtype, config.tuning, precision)
    return TextToImageModel(checkpoint, getattr(torch, name), device, config.attention)


def autocast_dtype(precision: str) -> torch.dtype | None:
    """What networks compute in under a training precision; None for `no`."""
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)


def make_policy(model: TextToImageModel, config: ModelConfig, seed: int, reference: bool = True) -> Policy:
    """Load the network and make the part of it trainable that the recipe names.

    Args:
        seed: draws a LoRA's start.
        reference: whether the method compares with one; full tuning keeps a copy of the weights for it.
    """
    if config.tuning == "lora":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # peft draws from the global generator, on the CPU
            return LoraPolicy(model.network, model.checkpoint, config.lora)
    return FullPolicy(model.network, model.checkpoint, config.reference, reference)


def _elements(model: TextToImageModel, recipe: Recipe) -> int:
    channels, factor = model.latent_shape
    return channels * ((recipe.data.resolution or model.resolution) // factor) ** 2


def encode_validation(model: TextToImageModel, settings: ValidationConfig) -> tuple[Conditions, Conditions] | None:
    """The validation prompts and the empty one, encoded while the text encoders are at hand."""
    prompts = list(settings.prompts)
    if not prompts:
        return None
    encoded = model.encode_prompts(prompts), model.encode_prompts([""])
    model.free("text")
    return encoded


def sampler(
    model: TextToImageModel, settings: ValidationConfig, resolution: int | None, encoded: tuple[Conditions, Conditions]
) -> Callable[[nn.Module, Path, int], None]:
    """Draws the validation grid with the same prompts and seeds each time."""
    sampling = sampling_for(model, settings.steps, settings.guidance, resolution, settings.batch_size)
    seeds = [settings.seed + i for i in range(len(settings.prompts))]

    def draw(network: Any, folder: Path, step: int) -> None:
        bare = getattr(network, "module", network)  # out of DistributedDataParallel's wrapper
        pictures = list(draw_pictures(model, model.pipeline(bare), *encoded, seeds, sampling))
        save_grid(sample_path(folder, step), pictures, settings.prompts)

    return draw


def checkpointing(training: TrainingConfig, work: Workload, device: torch.device) -> bool:
    """Whether activations are recomputed in the backward pass: as the recipe says, or where memory asks for it."""
    setting = training.gradient_checkpointing
    capacity = device_capacity(device)
    if isinstance(setting, bool) or capacity is None:
        return setting is True
    return choose_checkpointing(work, capacity)


def set_up(network: Any, recompute: bool, compiled: bool) -> None:
    """Switch the recomputation of activations on, and compile, where asked to."""
    if recompute:
        network.enable_gradient_checkpointing()
    if compiled:
        compile_blocks(network)


def compile_blocks(network: Any) -> None:
    """Compile the repeated blocks one by one: minutes less than the whole network, and nearly as fast."""
    repeated = getattr(network, "_repeated_blocks", None)
    if repeated:
        network.compile_repeated_blocks()
        return
    for block in network.transformer_blocks:
        block.compile()
