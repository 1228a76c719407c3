"""`palate demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo_command(
    out: Annotated[Path, typer.Option(help="Folder for the report, the runs and the data.")] = Path("demo"),
) -> None:
    """Align two tiny models with preferences on their own samples: no GPU, no network, minutes on a CPU."""
    import torch

    from ..eval.demo import run_demo
    from .stages import stages

    torch.set_num_threads(min(2, torch.get_num_threads()))  # the networks are too small for more
    with stages() as (say, advance):
        run_demo(out, say, advance)
    typer.echo(f"report: {out / 'report.html'}\nnumbers: {out / 'summary.json'}")
