"""`palate train RECIPE [key=value ...]`."""

from __future__ import annotations

from typing import Annotated

import typer


def train_command(
    recipe: Annotated[str, typer.Argument(help="A YAML recipe, or a name from `palate recipe list`.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value, such as training.steps=200")] = None,
) -> None:
    """Align a model as a recipe says. The same command goes on where an interrupted run stopped."""
    from ..t2i.recipes import find_recipe
    from ..training.recipe import load_recipe

    # The recipe is read before torch is imported: a typing mistake is answered at once.
    from .stages import stages

    settings = load_recipe(find_recipe(recipe), overrides or [], _schema(), name=recipe)

    from ..t2i.align import align

    with stages() as (say, advance):
        summary = align(settings, say, advance)
    if not summary.finished:
        raise typer.Exit(130)


def _schema() -> type:
    from ..t2i.recipe import Recipe

    return Recipe
