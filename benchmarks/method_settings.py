"""What decides a run's result, as its record keeps it: neither the page nor the search for what is missing looks at
today's recipes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from palate.t2i.online.recipe import OnlineRecipe
from palate.t2i.recipe import Recipe

_TRAINING = (
    "steps",
    "batch_size",
    "micro_batch",
    "learning_rate",
    "schedule",
    "warmup_steps",
    "optimizer",
    "max_grad_norm",
    "precision",
    "ema",
)
_BY_STEPS = ("steps", "warmup_steps")

Settings = Mapping[str, Any]


def settings_of(recipe: Recipe | OnlineRecipe) -> dict[str, Any]:
    """A recipe's settings, defaults included, as JSON has them.

    method    the whole section
    given     the names in it that recipe or row set; the others are the method's defaults
    training  what decides the result
    lora      rank, scale and layers
    """
    method, training, lora = (
        part.model_dump(mode="json") for part in (recipe.method, recipe.training, recipe.model.lora)
    )
    return {
        "method": method,
        "given": sorted(recipe.method.model_fields_set - {"name"}),
        "training": {name: training[name] for name in _TRAINING},
        "lora": {**lora, "targets": " ".join(lora["targets"] or ())},
    }


def without_steps(settings: Settings) -> dict[str, Any]:
    """`settings` without what follows from a budget."""
    kept = {name: value for name, value in settings["training"].items() if name not in _BY_STEPS}
    return {**settings, "training": kept}


def holds(settings: Settings, wanted: Settings) -> bool:
    """Whether all that decides a result is in `settings` as it is in `wanted`.

    A setting that the method did not have when `settings` were recorded may be missing where `wanted` has its default.
    """
    return all(
        settings[part][name] == value if name in settings[part] else part == "method" and name not in wanted["given"]
        for part in ("method", "training", "lora")
        for name, value in wanted[part].items()
    )


def told(run: Mapping[str, Any]) -> dict[str, Any]:
    """What people read of a run's settings: what was given, the learning rate, and which data."""
    settings = run["settings"]
    given = {name: settings["method"][name] for name in settings["given"]}
    data = {} if run["form"] == "groups" else {"data": run["form"]}
    return {**given, "learning_rate": settings["training"]["learning_rate"], **data}


def in_words(run: Mapping[str, Any]) -> str:
    """`told` in a line."""
    return said(told(run))


def said(settings: Mapping[str, Any]) -> str:
    """Settings in a line."""
    return ", ".join(f"{name} {_value(value)}" for name, value in settings.items())


def alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two runs have the same settings and data, whatever their steps and seeds."""
    a, b = without_steps(one["settings"]), without_steps(other["settings"])
    return one["form"] == other["form"] and holds(a, b) and holds(b, a)


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return str(value["name"]) if isinstance(value, dict) else str(value)
