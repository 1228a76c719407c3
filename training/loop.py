"""The training loop: it knows a task, and nothing of images.

A step's batch, its learning rate, its EMA decay and its seeds are pure functions of (seed, step), so a run goes on from
a checkpoint exactly as if it had never stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import checkpoint, environment, health, run_folder
from .config import TrainingConfig
from .disk import full_disk_explained, remove_leftovers, whole_folder
from .early_stop import should_stop
from .interrupt import Interrupt, interruptible
from .loader import batches
from .lock import locked
from .memory import out_of_memory_explained, peak_memory_gib
from .mfu import peak_flops, utilisation
from .optimizers import learning_rate, set_learning_rate
from .order import MicroBatches, Shares
from .processes import anywhere, on_main, start_accelerator
from .progress import TrainingProgress
from .refuse import refuse_early
from .run import Run, prepared, restore, store
from .run_folder import RunFolder, Summary
from .seeds import mix, seed_everything
from .task import Task, TaskInParts
from .trackers import held_out, read_metrics
from .trained import trained_parameters
from .writer import Writer


def train(task: Task, config: TrainingConfig, folder: Path, *, recipe: dict[str, Any]) -> Summary:
    """Train `task` in the run folder `folder`, from its newest verified checkpoint if it has one.

    `recipe` is the whole recipe as resolved: it is stored, and a folder with another one is refused.

    Returns how the run ended; a finished run is left as it is. On Ctrl-C or SIGTERM it writes a checkpoint and returns
    with `finished` False.

    Raises UserError for what the recipe asks and cannot have, PalateError for a full disk, lost memory, or a loss that
    is not finite; the last good checkpoint is kept.
    """
    accelerator = start_accelerator(config)
    refuse_early(config, folder, accelerator.num_processes)
    shares = Shares(config.batch_size, config.micro_batch, accelerator.num_processes)
    trained_parameters(task.network)  # refuses before anything is written
    with ExitStack() as stack:
        stack.enter_context(full_disk_explained(f"training in {folder}"))
        stack.enter_context(out_of_memory_explained(config.micro_batch, getattr(task, "memory_keys", ())))
        paths = on_main(accelerator, lambda: run_folder.create(folder))
        on_main(accelerator, lambda: stack.enter_context(locked(folder)))
        found, finished = on_main(accelerator, lambda: _look(paths, config, recipe))
        if finished:
            return finished
        interrupt = stack.enter_context(interruptible())
        with prepared(task, config, paths, accelerator, shares) as run:
            if found:
                restore(run, found)
            if accelerator.is_main_process:
                run.writer = stack.enter_context(Writer(paths, config, run.step, recipe))
                about = environment.describe(accelerator.device, shares.processes, config.seed)
                environment.record(paths.environment, run.step, about)
            easiest = getattr(task, "easiest", None)
            order = MicroBatches(
                config.seed, task.groups, shares, accelerator.process_index, run.step, config.steps, easiest
            )
            with closing(batches(task, order, config.workers, accelerator.device)) as stream:
                complete = _steps(run, stream, interrupt)
        return on_main(accelerator, lambda: _finish(run) if complete else _leave(run))


def _look(paths: RunFolder, config: TrainingConfig, recipe: dict[str, Any]) -> tuple[Path | None, Summary | None]:
    """The checkpoint to go on from, and the summary if there is nothing left to do."""
    stored = run_folder.require_same_recipe(paths, recipe)
    remove_leftovers(paths.path)
    remove_leftovers(paths.checkpoints)
    found = checkpoint.latest(paths.checkpoints)
    summary, progress = run_folder.read_summary(paths), TrainingProgress(config.steps)
    if summary:
        history = [held_out(row) for row in read_metrics(paths.metrics) if held_out(row)]
        if summary.step >= config.steps or should_stop(history, config.early_stop):
            fewer = f"for training.steps={config.steps} choose another output folder"
            more = "for more, raise training.steps, or choose another output folder"
            progress.say(
                f"{paths.path} is finished: {summary.step} steps, the weights are in {paths.final}; "
                f"{fewer if summary.step > config.steps else more}"
            )
            return found, summary  # its recipe stays the one that it was trained by
        paths.summary.unlink()
    if found:
        progress.say(f"{paths.path} goes on after step {checkpoint.step_of(found)}")
    if found and stored and (moved := run_folder.moved_by_length(stored, recipe)):
        progress.say(moved)
    run_folder.store_recipe(paths, recipe)
    return found, None


def _steps(run: Run, stream: Iterator[Any], interrupt: Interrupt) -> bool:
    """Train to the end; False when interrupted before."""
    config = run.config
    if run.step == 0:
        _validate(run)
        _sample(run)
    stop = on_main(run.accelerator, lambda: run.log.stopped_early)
    while run.step < config.steps and not stop:
        _optimise(run, stream)
        asked = anywhere(run.accelerator, interrupt.requested)
        if _due(run, config.log_every):
            _log(run)
        if _due(run, config.validate_every):
            stop = _validate(run)
        if _due(run, config.sample_every) or (stop and config.sample_every):
            _sample(run)
        if _due(run, config.checkpoint_every) or stop or asked:
            _collect(run)
            store(run)
        if asked:
            return stop or run.step == config.steps
    return True


def _due(run: Run, every: int | None) -> bool:
    return every is not None and (run.step % every == 0 or run.step == run.config.steps)


def _optimise(run: Run, stream: Iterator[Any]) -> None:
    """One optimizer step."""
    accelerator, config, count = run.accelerator, run.config, run.shares.accumulation
    parts = run.task.parts if isinstance(run.task, TaskInParts) else 1
    last = count * parts - 1
    started = time.perf_counter()
    if at_step := getattr(run.task, "at_step", None):
        at_step(run.step)
    seed_everything(accelerator.device, mix(config.seed, run.step, accelerator.process_index))
    for micro in range(count):
        losses = _losses(run.task, next(stream))
        for number in range(micro * parts, (micro + 1) * parts):
            with nullcontext() if number == last else accelerator.no_sync(run.task.network):
                loss, metrics = next(losses)
                accelerator.backward(loss / (count * parts))
            run.meter.micro_batch(loss, metrics)
    norm = accelerator.clip_grad_norm_(run.parameters.values(), config.max_grad_norm or math.inf)
    set_learning_rate(run.optimizer.optimizer, learning_rate(config, run.step))
    run.optimizer.step()
    run.optimizer.zero_grad()
    run.meter.step(torch.as_tensor(norm))
    if run.ema:
        run.ema.update(run.step)
    run.step += 1
    if run.writer:
        run.writer.progress.at(run.step)
    _count_seconds(run, started)


def _losses(task: Task, batch: Any) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """The losses of a micro-batch, each made when it is asked for."""
    if isinstance(task, TaskInParts):
        yield from task.losses(batch)
    else:
        yield task.loss(batch)


def _collect(run: Run) -> None:
    """Bring the numbers of the steps done so far from the device, and stop if one is not finite."""
    started = time.perf_counter()
    fresh = run.meter.collect(run.accelerator)
    _count_seconds(run, started)
    health.require_finite(fresh, run.step - len(fresh) + 1, run.config.precision, run.config.batch_size)
    run.skipped += sum(not math.isfinite(row["grad_norm"]) for row in fresh)


def _count_seconds(run: Run, started: float) -> None:
    passed = time.perf_counter() - started
    run.seconds += passed
    run.window_seconds += passed


def _log(run: Run) -> None:
    _collect(run)
    steps = run.meter.rows
    row: dict[str, float] = {"step": run.step}
    if run.config.precision == "fp16":
        row["skipped"] = sum(not math.isfinite(step["grad_norm"]) for step in steps) / len(steps)
        row["skipped_steps"] = run.skipped
    speed = run.config.batch_size * len(steps) / run.window_seconds
    row |= run.meter.take_means()
    row |= {
        "learning_rate": learning_rate(run.config, run.step - 1),
        "seconds": run.seconds,
        "groups_per_second": speed,
    }
    row["peak_memory_gib"] = peak_memory_gib(run.accelerator.device)
    flops, peak = getattr(run.task, "flops_per_group", None), peak_flops(run.accelerator.device)
    if flops and peak:
        row["mfu"] = utilisation(flops, speed, peak, run.shares.processes)
    run.window_seconds = 0.0
    if run.writer:
        run.writer.training(row)


def _validate(run: Run) -> bool:
    """Held-out numbers; whether to stop early."""
    _collect(run)

    def work() -> bool:
        with _evaluating(run):
            return run.log.validation(run.step, run.task.validate())

    return run.config.validate_every is not None and on_main(run.accelerator, work)


def _sample(run: Run) -> None:
    _collect(run)

    def work() -> None:
        with _evaluating(run):
            run.task.sample(run.folder.samples, run.step)
        run.log.samples(run.step)

    if run.config.sample_every is not None:
        on_main(run.accelerator, work)


@contextmanager
def _evaluating(run: Run) -> Iterator[None]:
    """No gradients, evaluation mode, averaged weights if any, and the same seed every time."""
    seed_everything(run.accelerator.device, mix(run.config.seed))
    with torch.no_grad(), run.ema.swapped_in() if run.ema else nullcontext():
        run.task.network.eval()
        try:
            yield
        finally:
            run.task.network.train()


def _finish(run: Run) -> Summary:
    """The final weights, then the summary that marks the run finished."""
    with run.ema.swapped_in() if run.ema else nullcontext(), whole_folder(run.folder.final) as folder:
        run.task.save(folder)
    summary = _summary(run, finished=True)
    run_folder.write_summary(run.folder, summary)
    run.log.progress.say(f"finished after {run.step} steps; the weights are in {run.folder.final}")
    return summary


def _leave(run: Run) -> Summary:
    run.log.progress.say(f"interrupted after {run.step} steps; a checkpoint is written, the same command goes on")
    return _summary(run, finished=False)


def _summary(run: Run, finished: bool) -> Summary:
    training, validation = run.log.metrics.training, run.log.metrics.validation
    return Summary(
        folder=run.folder.path,
        step=run.step,
        finished=finished,
        stopped_early=finished and run.step < run.config.steps,
        seconds=run.seconds,
        training=training[-1] if training else {},
        validation=held_out(validation[-1]) if validation else {},
    )
