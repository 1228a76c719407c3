"""`palate data label IMAGES --with pickscore,hpsv2.1 --out GROUPS`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .scorers import BATCH, DEVICE, DTYPE, WEIGHTS, block_size, place, read_assets, read_names, split_names

if TYPE_CHECKING:
    from ..datasets.skips import SkipLog
    from ..rewards.labels.label import Labelled
    from ..rewards.scoring.batch import Advance
    from ..rewards.scoring.rows import Rows

_IMAGES = "A folder, a pattern, a manifest (JSONL, CSV, Parquet; columns image and prompt) or groups."
_SCORERS = "Scorers, with commas between; `palate score --list` names them. With --scores: which of its columns."
_COMBINE = (
    "win: the share of the other candidates that one beats (Syn-Pic); rank: mean rank; sum: z-scores within the "
    "prompt; raw_sum: scores as they are; calibrated: the chance to win, scores taken as logits (CaPO); pareto: "
    "Pareto fronts; frontier: the upper front against the lower (CaPO)."
)
_WEIGH = "NAME=NUMBER, a scorer's weight in the combination (in raw_sum and calibrated: a factor); may be given again."
_SCORES = "A scores.parquet of `palate score` over these pictures, or its folder: then nothing is scored."


def label_command(
    images: Annotated[str, typer.Argument(help=_IMAGES, show_default=False)],
    out: Annotated[Path, typer.Option(help="Where the Parquet shards go: a new or empty folder.", show_default=False)],
    scorers: Annotated[str, typer.Option("--with", help=_SCORERS)] = "",
    combine: Annotated[str, typer.Option(help=_COMBINE)] = "win",
    weigh: Annotated[list[str] | None, typer.Option(help=_WEIGH)] = None,
    scores: Annotated[Path | None, typer.Option(help=_SCORES)] = None,
    prompts: Annotated[
        str | None, typer.Option(help="A manifest's column, or a file of prompts; as `palate score` takes it.")
    ] = None,
    weights: Annotated[list[str] | None, typer.Option(help=WEIGHTS)] = None,
    device: Annotated[str, typer.Option(help=DEVICE)] = "auto",
    dtype: Annotated[str | None, typer.Option(help=DTYPE, show_default=False)] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help=BATCH, show_default=False)] = None,
    as_stored: Annotated[bool, typer.Option("--as-stored", help="Do not turn pictures as their EXIF says.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the shards (groups-*.parquet) that are there.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Make preference groups of pictures: one for each prompt, labelled by what several scorers say together.

    Scores are kept in OUT.scores: the same command goes on where it stopped. Pictures without a score, and prompts with
    fewer than two pictures, are left out and named. Exit code: 0 written; 2 the request cannot be met.
    """
    from ..errors import UserError

    names = read_names(scorers) if scores is None else split_names(scorers)
    if not names and scores is None:
        raise UserError("name the scorers, such as --with pickscore,hpsv2.1, or --scores FILE with what they said")
    if scores is not None and weights:
        raise UserError("--weights is for scoring, and with --scores nothing is scored: leave one of them out")
    settings: dict[str, Any] = {"combination": combine, "weights": _weights(weigh or []), "prompts": prompts}
    settings["mode"] = "overwrite" if overwrite else "new"
    from .stages import stages

    with stages() as (_, advance):
        if scores is None:
            rows = _require(images, out, names, settings)
            scores = _score(rows, out, names, weights or [], device, dtype, batch_size, not as_stored, advance)
        from ..rewards.labels.label import label_scored

        done = label_scored(images, scores, out, scorers=names or None, advance=advance, **settings)
    _tell(done, out, as_json)


def _require(images: str, out: Path, names: list[str], settings: dict[str, Any]) -> Rows:
    """The pictures, once all is refused that can be before gigabytes are loaded."""
    from ..rewards.labels.label import require_labelling

    return require_labelling(images, out, names, **settings)


def _score(
    rows: Rows,
    out: Path,
    names: list[str],
    weights: list[str],
    device: str,
    dtype: str | None,
    batch_size: int | None,
    upright: bool,
    advance: Advance,
) -> Path:
    """Score as `palate score` does; the table's path."""
    from ..rewards.labels.label import scores_folder
    from ..rewards.scoring.batch import score_in_passes
    from ..rewards.scoring.passes import passes_of

    assets = read_assets(weights)
    placed, precision = place(device, dtype)
    size = block_size(batch_size, placed)
    passes = passes_of(names, assets, placed, precision)
    done = score_in_passes(rows, passes, scores_folder(out), batch_size=size, upright=upright, advance=advance)
    assert done.tables is not None, "the only shard is done"
    return done.tables[0]


def _weights(given: list[str]) -> dict[str, float]:
    """`["pickscore=2"]` by scorer."""
    from ..errors import UserError

    found = {}
    for text in given:
        name, _, number = text.partition("=")
        try:
            found[name] = float(number)
        except ValueError:
            raise UserError(f"--weigh is {text!r}; it is NAME=NUMBER, such as pickscore=2") from None
    return found


def _tell(done: Labelled, out: Path, as_json: bool) -> None:
    if as_json:
        fields = {"rater": done.rater, "groups": done.written.groups, "candidates": done.candidates, "ties": done.ties}
        fields |= {"shards": [str(shard) for shard in done.written.shards], "bytes": done.written.bytes}
        for name, log in (("pictures", done.pictures), ("prompts", done.prompts), ("groups", done.groups)):
            fields[f"{name}_left_out"] = dict(log.counts)
            fields[f"{name}_left_out_examples"] = [str(skipped) for skipped in log.examples]
        typer.echo(json.dumps(fields, ensure_ascii=False))
        return
    typer.echo(
        f"{done.written.groups:,} groups with {done.candidates:,} candidates in all, labelled by {done.rater}, to "
        f"{len(done.written.shards)} shard(s) in {out} ({done.written.bytes / 1e6:,.1f} MB)"
    )
    if done.ties:
        typer.echo(f"{done.ties:,} of them are ties: nothing in them is preferred")
    _tell_left_out("pictures", done.pictures)
    _tell_left_out("prompts", done.prompts)
    _tell_left_out("groups", done.groups)


def _tell_left_out(what: str, log: SkipLog) -> None:
    if log.total:
        typer.echo(f"{what} left out: {log.summary()}")
        for skipped in log.examples[:10]:
            typer.echo(f"  {skipped}")
