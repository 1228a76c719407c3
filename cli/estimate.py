"""`palate estimate RECIPE [key=value ...]`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..t2i.estimate import Estimate, Timing
    from ..t2i.workload import Workload
    from ..training.cards import Card
    from ..training.config import TrainingConfig

_RECIPE = "A YAML recipe, a name from `palate recipe list`, or a model such as sdxl, sd1.5 or sd3.5-medium."


def estimate_command(
    recipe: Annotated[str, typer.Argument(help=_RECIPE)],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value, as for `palate train`.")] = None,
    card: Annotated[str | None, typer.Option(help="h200, h100, a100-80, rtx-4090, ...; the card that is here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Memory, FLOPs and time of a run, counted before anything heavy is loaded or downloaded."""
    from dataclasses import asdict

    from ..t2i.estimate import estimate
    from ..training.cards import find_card

    chosen = find_card(card) if card else _card_here()
    work, training = _read(recipe, overrides or [])
    result = estimate(work, training.batch_size, chosen, steps=training.steps)
    if as_json:
        typer.echo(json.dumps({**asdict(result), "card_gib": chosen.memory_gib if chosen else None}))
        return
    _print(work, result, chosen)


def _read(recipe: str, overrides: list[str]) -> tuple[Workload, TrainingConfig]:
    """The workload of a recipe or of a known architecture's name, and how it is trained."""
    from pathlib import Path

    from ..errors import UserError
    from ..t2i.models.architectures import ARCHITECTURES
    from ..t2i.recipe import Recipe
    from ..t2i.recipes import find_recipe
    from ..t2i.workload import workload_of
    from ..training.order import Shares
    from ..training.recipe import check_recipe, read_recipe

    if recipe in ARCHITECTURES and not Path(recipe).is_file():
        settings = check_recipe(_recipe_of(recipe), overrides, Recipe, recipe)
    else:
        try:
            file = find_recipe(recipe)
        except UserError as error:
            raise UserError(f"{error}; and it counts the models {', '.join(ARCHITECTURES)}") from None
        values = read_recipe(file, overrides)
        name = values["method"].get("name") if isinstance(values.get("method"), dict) else None
        if name in ("reward_model", "step_aware"):
            raise UserError(f"{recipe} trains a judge of pictures; only text-to-image recipes are counted")
        if name in ("spo", "d3po"):
            return _read_online(values, recipe)
        settings = check_recipe(values, [], Recipe, recipe)
    Shares(settings.training.batch_size, settings.training.micro_batch)  # refuses what `palate train` refuses
    method = settings.method.build(elements=1)
    return workload_of(settings, method), settings.training


def _read_online(values: dict[str, Any], recipe: str) -> tuple[Workload, TrainingConfig]:
    """The workload of a method that learns from prompts, and how it is trained."""
    from ..t2i.models.architectures import find_architecture
    from ..t2i.online.recipe import OnlineRecipe
    from ..t2i.online.workload import online_workload
    from ..training.order import Shares
    from ..training.recipe import check_recipe

    settings = check_recipe(values, [], OnlineRecipe, recipe)
    Shares(settings.training.batch_size, settings.training.micro_batch)
    family = find_architecture(settings.model.path, settings.model.revision).family
    return online_workload(settings, settings.method.build(family)), settings.training


def _recipe_of(architecture: str) -> dict[str, Any]:
    """The plainest recipe that trains a model."""
    return {
        "model": {"path": architecture},
        "data": {"path": "groups"},
        "method": {"name": "diffusion_dpo"},
        "training": {"precision": "bf16"},
        "output": {"folder": "run"},
    }


def _card_here() -> Card | None:
    import torch

    from ..training.cards import card_of

    return card_of(torch.cuda.get_device_name()) if torch.cuda.is_available() else None


def _print(work: Workload, result: Estimate, card: Card | None) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    table = Table(title=_title(result), title_justify="left", show_header=False, box=None, padding=(0, 2))
    for name, value in _lasting(result):
        table.add_row(name, value)
    console.print(table)
    phases = Table("phase", "peak GiB", "TFLOP a pair", box=None, padding=(0, 2))
    phases.add_row("encoding prompts", f"{result.text_encoding_peak_gib:.3g}", "")
    encoding = f"{result.preparation_tflops_per_pair:.3g} once, prompt and pictures"
    if result.parts == 1:  # else there are only prompts
        phases.add_row("encoding pictures", f"{result.vae_encoding_peak_gib:.3g}", encoding)
    for name, training in (("training", result.plain), ("training, checkpointed", result.checkpointed)):
        phases.add_row(name, f"{training.peak_gib:.3g}", f"{training.tflops_per_pair:.3g}")
    console.print(phases)
    if result.parts > 1:
        console.print(
            "a pair is a prompt here, its rollout and all steps that are learned from, though some may bring no pair; "
            "the judge and the decoding of its pictures are not counted",
            markup=False,
        )
    if result.references_gib:
        console.print(f"on disk, the run folder's references/ grows to {result.references_gib:.3g} GiB", markup=False)
    for line in _verdict(work, result, card):
        console.print(line, markup=False)


def _title(result: Estimate) -> str:
    return (
        f"{result.architecture}: {result.tuning}, {result.resolution} px, micro-batch {result.micro_batch} of "
        f"{result.batch_size} pairs, {result.dtype}, autocast {result.precision}"
    )


def _lasting(result: Estimate) -> list[tuple[str, str]]:
    plain, checkpointed = result.plain.activations_gib, result.checkpointed.activations_gib
    rows = [
        ("network", f"{result.parameters / 1e6:,.1f} M weights, {result.weights_gib:.3g} GiB"),
        ("trained", f"{result.trainable / 1e6:,.2f} M weights"),
        ("reference copy", f"{result.reference_gib:.3g} GiB"),
        ("gradients", f"{result.gradients_gib:.3g} GiB"),
        ("optimizer", f"{result.optimizer_gib:.3g} GiB"),
        ("EMA", f"{result.ema_gib:.3g} GiB"),
        ("autoencoder", f"{result.autoencoder_gib:.3g} GiB"),
        ("activations", f"{plain:.3g} GiB, {checkpointed:.3g} checkpointed"),
    ]
    return [(name, text) for name, text in rows if text != "0 GiB"]


def _verdict(work: Workload, result: Estimate, card: Card | None) -> list[str]:
    """What the numbers mean for a card: whether it fits, and how fast it will be."""
    from ..t2i.memory import USABLE, advice
    from ..training.cards import EXPECTED

    if card is None:
        return ["no card is known here: name one with --card to see whether it fits and how long it takes"]
    usable = USABLE * card.memory_gib
    fitting = [way for way in (result.plain, result.checkpointed) if way.peak_gib <= usable]
    limit = f"{card.name}: {card.memory_gib:.0f} GiB, of which a run may fill {usable:.0f}"
    if not fitting:
        return [f"{limit}; the run does not fit, with gradient checkpointing either; {advice(work)}"]
    lines = [f"{limit}; the run fits, gradient checkpointing {'off' if fitting[0] is result.plain else 'on'}"]
    if max(result.text_encoding_peak_gib, result.vae_encoding_peak_gib) > usable:
        lines.append("but preparation does not fit: encode on another machine and bring the cache")
    timing = fitting[0].timing
    return lines if timing is None else [*lines, *_times(timing, EXPECTED)]


def _times(timing: Timing, share: tuple[float, float]) -> list[str]:
    seconds, pairs = timing.step_seconds_expected, timing.pairs_per_second_expected
    return [
        f"floor      {timing.step_seconds_floor:.3g} s a step, {timing.pairs_per_second_floor:.3g} pairs/s",
        f"expected   {seconds[0]:.3g} to {seconds[1]:.3g} s a step, {pairs[1]:.3g} to {pairs[0]:.3g} pairs/s "
        f"({share[0]:.0%} to {share[1]:.0%} of the data sheet's peak)",
    ]
