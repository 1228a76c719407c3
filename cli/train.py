"""`palate train RECIPE [key=value ...]`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train_command(
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe; `palate recipe copy` writes one to start from.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value, such as training.steps=200")] = None,
) -> None:
    """Align a model as a recipe says. The same command goes on where an interrupted run stopped."""
    from ..training.recipe import load_recipe

    # The recipe is read before torch is imported: a typing mistake is answered at once.
    from .stages import stages

    settings = load_recipe(recipe, overrides or [], _schema())

    from ..t2i.align import align

    with stages() as (say, advance):
        summary = align(settings, say, advance)
    if not summary.finished:
        raise typer.Exit(130)


def _schema() -> type:
    from ..t2i.recipe import Recipe

    return Recipe
