"""`palate recipe list|copy`: the shipped recipes, to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="The shipped recipes.", no_args_is_help=True)


@app.command("list")
def list_command() -> None:
    """Name the shipped recipes and what each of them does."""
    from ..t2i.recipes import shipped

    recipes = shipped()
    width = max(len(recipe.name) for recipe in recipes)
    for recipe in recipes:
        typer.echo(f"{recipe.name:<{width}}  {recipe.about}")


@app.command("copy")
def copy_command(
    name: Annotated[str, typer.Argument(help="A name from `palate recipe list`.")],
    target: Annotated[Path | None, typer.Argument(help="The file to write; the recipe's own name here.")] = None,
) -> None:
    """Write a shipped recipe to a file of yours."""
    from ..t2i.recipes import copy_recipe

    typer.echo(f"wrote {copy_recipe(name, target)}")
