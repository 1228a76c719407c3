"""`palate recipe list|copy`: the shipped recipes, to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="The shipped recipes.", no_args_is_help=True)


@app.command("list")
def list_command(
    words: Annotated[
        list[str] | None, typer.Argument(help="Only names and methods with all of these in them: sdxl mapo.")
    ] = None,
) -> None:
    """Name the shipped recipes by method, and what each of them does."""
    from ..errors import UserError
    from ..t2i.recipes import shipped

    wanted = [recipe for recipe in shipped() if all(word in f"{recipe.name} {recipe.method}" for word in words or [])]
    if not wanted:
        raise UserError(f"no recipe has {' and '.join(words or [])} in its name; `palate recipe list` names them all")
    width = max(len(recipe.name) for recipe in wanted)
    for method in sorted({recipe.method for recipe in wanted}):
        typer.echo(method)
        for recipe in wanted:
            if recipe.method == method:
                typer.echo(f"  {recipe.name:<{width}}  {recipe.about}")


@app.command("copy")
def copy_command(
    name: Annotated[str, typer.Argument(help="A name from `palate recipe list`.")],
    target: Annotated[Path | None, typer.Argument(help="The file to write; the recipe's own name here.")] = None,
) -> None:
    """Write a shipped recipe to a file of yours, whole and with its comments."""
    from ..t2i.recipes import copy_recipe

    typer.echo(f"wrote {copy_recipe(name, target)}")
