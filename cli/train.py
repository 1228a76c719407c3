"""`palate train RECIPE [key=value ...]`."""

from __future__ import annotations

from typing import Annotated, Any

import typer


def train_command(
    recipe: Annotated[str, typer.Argument(help="A YAML recipe, or a name from `palate recipe list`.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value, such as training.steps=200")] = None,
) -> None:
    """Align a model, train a reward model or SPO's step-aware judge, as a recipe says.

    The same command goes on where a run stopped.
    """
    from ..t2i.recipes import find_recipe
    from ..training.recipe import check_recipe, read_recipe

    # The recipe is read before torch is imported: a typing mistake is answered at once.
    from .stages import stages

    values = read_recipe(find_recipe(recipe), overrides or [])
    if _method(values) == "reward_model":
        from ..rewards.learn.recipe import RewardRecipe

        settings = check_recipe(values, [], RewardRecipe, recipe)

        from ..rewards.learn.fit import fit_reward as run
    elif _method(values) == "step_aware":
        from ..t2i.step_aware.config import StepAwareRecipe

        settings = check_recipe(values, [], StepAwareRecipe, recipe)

        from ..t2i.step_aware.fit import fit_step_aware as run
    elif _method(values) in ("spo", "d3po"):
        from ..t2i.online.recipe import OnlineRecipe

        settings = check_recipe(values, [], OnlineRecipe, recipe)

        from ..t2i.online.fit import align_online as run
    else:
        from ..t2i.recipe import Recipe

        settings = check_recipe(values, [], Recipe, recipe)

        from ..t2i.align import align as run

    with stages() as (say, advance):
        summary = run(settings, say, advance)  # pyright: ignore[reportArgumentType]
    if not summary.finished:
        raise typer.Exit(130)


def _method(values: dict[str, Any]) -> Any:
    method = values.get("method")
    return method.get("name") if isinstance(method, dict) else None
