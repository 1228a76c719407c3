"""`palate score IMAGES --with pickscore,hpsv2.1`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .scorers import (
    BATCH,
    DEVICE,
    DTYPE,
    WEIGHTS,
    WITH,
    block_size,
    launched,
    place,
    read_assets,
    read_names,
    read_shard,
    split_names,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from ..rewards.scorer import Scorer
    from ..rewards.scoring.batch import Scored
    from ..rewards.scoring.rows import Rows

    Passes = Sequence[Callable[[], Sequence[Scorer]]]

_IMAGES = "A folder, a picture, a pattern, a manifest (JSONL, CSV, Parquet; columns image and prompt) or groups."
_PROMPTS = "A manifest's column, or a file: a text with one prompt for each picture, or a table of image and prompt."
_SERVICE = "Ask a running `palate score --serve` at this address instead of computing here."
_TOKEN = "Of the service, with --serve and --service; better the environment variable PALATE_TOKEN."
_SHARD = "I/N: only the I-th of N parts; the last to end writes the tables. `accelerate launch` sets it by itself."


def score_command(
    images: Annotated[str | None, typer.Argument(help=_IMAGES, show_default=False)] = None,
    scorers: Annotated[str, typer.Option("--with", help=WITH)] = "",
    prompts: Annotated[str | None, typer.Option(help=_PROMPTS)] = None,
    out: Annotated[Path, typer.Option(help="Folder for the tables and the log.")] = Path("scores"),
    weights: Annotated[list[str] | None, typer.Option(help=WEIGHTS)] = None,
    device: Annotated[str, typer.Option(help=DEVICE)] = "auto",
    dtype: Annotated[str | None, typer.Option(help=DTYPE, show_default=False)] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help=BATCH, show_default=False)] = None,
    shard: Annotated[str | None, typer.Option(help=_SHARD, show_default=False)] = None,
    reuse: Annotated[list[Path] | None, typer.Option(help="Another run's folder, whose scores are taken over.")] = None,
    service: Annotated[str | None, typer.Option(help=_SERVICE, show_default=False)] = None,
    as_stored: Annotated[bool, typer.Option("--as-stored", help="Do not turn pictures as their EXIF says.")] = False,
    show: Annotated[bool, typer.Option("--list", help="Name the scorers and leave.")] = False,
    serving: Annotated[bool, typer.Option("--serve", help="Answer over HTTP until Ctrl-C; takes no images.")] = False,
    host: Annotated[str, typer.Option(help="With --serve; one that others reach needs a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="With --serve; 0 takes a free one.")] = 8000,
    token: Annotated[str | None, typer.Option(help=_TOKEN, show_default=False)] = None,
) -> None:
    """Score pictures with many scorers at once; the same command goes on where it stopped."""
    if show:
        _list()
        return
    from ..errors import UserError

    names = read_names(scorers) if service is None else split_names(scorers)
    if serving:
        if images is not None or not names:
            raise UserError("--serve takes scorers and no images: palate score --serve --with pickscore,hpsv2.1")
        from .serve import serve

        placed, precision = place(device, dtype)
        size, upright = block_size(batch_size, placed), not as_stored
        assets = read_assets(weights or [])
        serve(names, assets, placed, precision, host=host, port=port, token=token, batch_size=size, upright=upright)
        return
    if images is None or not names:
        raise UserError("name the images and the scorers: palate score IMAGES --with pickscore,hpsv2.1 (see --list)")
    part, alone = launched() if shard is None else read_shard(shard), shard is not None
    assets = read_assets(weights or [])

    from ..rewards.scoring.rows import open_rows

    rows = open_rows(images, prompts)  # a wrong path is told before gigabytes are loaded
    if rows.unread is not None and (alone or part[0] == 0):
        typer.echo(
            f"{rows.unread} is not read: it has no column image or file_name, and is no table of groups", err=True
        )
    if service is None:
        _require_prompts(names, rows, images)
    from ..rewards.scoring.batch import score_in_passes
    from .stages import stages

    placed, precision = place(device, dtype)
    passes = _passes(names, assets, placed, precision) if service is None else _asked(service, names, token)
    with stages() as (say, advance):
        done = score_in_passes(
            rows,
            passes,
            out,
            batch_size=block_size(batch_size, placed),
            shard=part,
            upright=not as_stored,
            reuse=reuse or (),
            advance=advance if alone or part[0] == 0 else None,  # of several processes, one shows how far it is
        )
        _tell(done, say)


def _passes(names: list[str], assets: Any, device: torch.device, dtype: torch.dtype | None) -> Passes:
    from ..rewards.scoring.passes import passes_of

    return passes_of(names, assets, device, dtype)


def _asked(service: str, names: list[str], token: str | None) -> Passes:
    from ..rewards.service.client import remote_scorers

    scorers = remote_scorers(service, names, token)  # now, so that a wrong address is told before pictures are read
    return [lambda: scorers]


def _require_prompts(names: list[str], rows: Rows, images: str) -> None:
    from ..errors import UserError
    from ..rewards.scorer import needing_prompts

    needing = needing_prompts(names)
    if needing and not rows.has_prompts:
        what = rows.how_to_prompt("give --prompts FILE or COLUMN")
        raise UserError(f"{images} has no prompts, and {', '.join(needing)} need them; {what}")


def _tell(done: Scored, say: Any) -> None:
    for image, reason in done.reasons:
        say(f"no score: {image}: {reason}" if image not in reason else f"no score: {reason}")
    if done.skipped:
        say(f"{done.skipped} groups could not be read and are left out; `palate data check` tells why")
    parts = []
    for name, new in done.new.items():
        failed = done.failures[name]
        parts.append(f"{name} {new} new" + (f", {failed} without a score" if failed else ""))
    say(f"{done.images} images: {'; '.join(parts)}")
    say(str(done.tables[0]) if done.tables else "the tables are written when the other shards are done")


def _list() -> None:
    from rich.console import Console
    from rich.table import Table

    from ..rewards.registry import plugins
    from ..rewards.zoo import ENTRIES

    table = Table("scorer", "modality", "prompt", "range and scale", "licence of weights", "GB in bf16", box=None)
    table.columns[0].no_wrap = True
    for entry in ENTRIES:
        memory = f"{entry.memory_gb:.1f}" if entry.memory_gb else "-"
        prompt = "yes" if entry.needs_prompts else "no"
        table.add_row(entry.name, entry.modality, prompt, entry.scale, entry.licence, memory)
    for name, point in sorted(plugins().items()):
        brought = point.dist.name if point.dist else point.value
        table.add_row(name, "?", "?", f"from {brought}", "?", "?")
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 140  # a file or a pipe has no edge
    console.print(table)
