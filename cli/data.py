"""`palate data`: look at preference data, and convert it."""

from __future__ import annotations

import glob
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .captions import captions_command
from .label import label_command
from .synpic import synpic_command

if TYPE_CHECKING:
    from ..datasets.group import Group
    from ..datasets.report import Report

app = typer.Typer(name="data", help="Look at preference data, and convert it.", no_args_is_help=True)
app.command("label")(label_command)
app.command("captions")(captions_command)
app.command("synpic")(synpic_command)

_FORMAT = "auto, parquet, pickapic, table, folders, hpd or imagereward."
Source = Annotated[
    str, typer.Argument(help="A file, a folder, a pattern, or a hub id (owner/name).", show_default=False)
]
Format = Annotated[str, typer.Option("--format", "-f", help=_FORMAT)]
Split = Annotated[str | None, typer.Option(help="Which split, where the source holds several.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first so many groups.")]


@app.command()
def check(
    source: Source,
    format: Format = "auto",
    split: Split = None,
    against: Annotated[
        list[str] | None,
        typer.Option(help="A split of the source, or another source, that must share no prompt with it."),
    ] = None,
    sheet: Annotated[Path | None, typer.Option(help="Draw 20 groups to this PNG file.")] = Path("contact_sheet.png"),
    no_sheet: Annotated[bool, typer.Option("--no-sheet", help="Draw no contact sheet.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Read only the pictures' headers: finds no cut ones.")] = False,
    limit: Limit = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Count groups, ties, sizes, duplicates, unreadable pictures, label balance and prompt leaks; draw 20 groups.

    Exit code: 0 the set is sound; 1 something in it needs a look (unreadable or missing pictures, broken rows, an empty
    set, only ties, leaked prompts, an unfinished build); 2 the source cannot be read as asked.
    """
    from itertools import islice

    from ..datasets.check import check_groups
    from ..datasets.contact_sheet import sample_through, save_contact_sheet
    from ..datasets.open import open_groups
    from ..datasets.parquet import is_unfinished
    from ..datasets.skips import SkipLog

    log, sample = SkipLog(), []
    groups = sample_through(islice(open_groups(source, format, split=split, log=log), limit), sample)
    others = {name: _prompts(source, name) for name in against or ()}
    report = check_groups(_with_progress(groups), others, log=log, decode=not quick)
    report.unfinished = is_unfinished(source)
    drawn = None if no_sheet or sheet is None or not sample else save_contact_sheet(sample, sheet)
    if as_json:
        fields = {"source": source, "contact_sheet": None if drawn is None else str(drawn), **report.as_dict()}
        typer.echo(json.dumps(fields, ensure_ascii=False))
    else:
        _print_report(source, report, drawn)
    raise typer.Exit(1 if report.problems else 0)


@app.command()
def convert(
    source: Source,
    folder: Annotated[
        Path, typer.Argument(help="Where the Parquet shards go: a new or empty folder.", show_default=False)
    ],
    format: Format = "auto",
    split: Split = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace palate's shards that are there.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after the shards that are there.")] = False,
    limit: Limit = None,
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Keep groups whose pictures cannot be read.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Turn preference data into Parquet shards that palate and Hugging Face's `datasets` read.

    Groups with an unreadable picture are left out and named. Exit code: 0 written; 2 the request cannot be met.
    """
    from ..datasets.convert import convert_groups
    from ..datasets.open import detect_format
    from ..errors import UserError

    if overwrite and resume:
        raise UserError("--overwrite and --resume exclude each other: choose one")
    mode: Literal["new", "resume", "overwrite"] = "overwrite" if overwrite else "resume" if resume else "new"
    format = detect_format(source, split) if format == "auto" else format
    with _progress("converting") as advance:
        done = convert_groups(
            source, folder, format=format, split=split, mode=mode, limit=limit, verify=not no_verify, on_group=advance
        )
    if as_json:
        fields = {"format": format, "groups": done.written.groups, "shards": [str(s) for s in done.written.shards]}
        fields |= {"bytes": done.written.bytes, "skipped": dict(done.skipped.counts)}
        fields |= {"skipped_examples": [str(skipped) for skipped in done.skipped.examples]}
        typer.echo(json.dumps(fields, ensure_ascii=False))
        return
    typer.echo(
        f"{done.written.groups:,} groups from {format} to {len(done.written.shards)} shard(s) in {folder} "
        f"({done.written.bytes / 1e6:,.1f} MB)"
    )
    if done.skipped.total:
        typer.echo(f"left out: {done.skipped.summary()}")
        for skipped in done.skipped.examples[:10]:
            typer.echo(f"  {skipped}")


def _prompts(source: str, other: str) -> Iterator[str]:
    """The prompts of a split of `source`, or of another path or hub id."""
    from ..datasets.open import open_prompts
    from ..datasets.sources import looks_like_hub_id

    if Path(other).exists() or glob.glob(other) or looks_like_hub_id(other):
        return open_prompts(other)
    return open_prompts(source, other)


def _with_progress(groups: Iterable[Group]) -> Iterator[Group]:
    with _progress("checking") as advance:
        for count, group in enumerate(groups, start=1):
            advance(count)
            yield group


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int], None]]:
    """A running count on the error stream, on a terminal only; how many will come is not known in a stream."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = SpinnerColumn(), TextColumn(what), MofNCompleteColumn(), TextColumn("groups"), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda count: bar.update(task, completed=count)


def _print_report(source: str, report: Report, drawn: Path | None) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    table = Table(title=source, title_justify="left", show_header=False, box=None, padding=(0, 2))
    for name, value in _lines(report):
        table.add_row(name, value)
    console.print(table)
    for skipped in (*report.unreadable[:10], *report.skipped_examples[:10]):
        console.print(f"  {skipped}", style="red", markup=False)
    for note in report.notes:
        console.print(f"note     {note}", style="yellow", markup=False)
    for problem in report.problems:
        console.print(f"problem  {problem}", style="bold red", markup=False)
    if not report.problems:
        console.print("sound    nothing stands in the way of training", style="green")
    if drawn is not None:
        console.print(f"contact sheet: {drawn}", markup=False)


def _lines(report: Report) -> Iterator[tuple[str, str]]:
    """The report's rows: what, how much."""
    yield "groups", f"{report.groups:,}"
    if not report.groups:
        return
    yield "candidates", f"{report.candidates:,} ({_counts(report.by_size, 'k = ')})"
    yield "preferences", f"{report.preferences:,} readable groups that prefer something"
    yield "ties", f"{report.ties:,}"
    if report.wins_by_position:
        yield "winner stands at", _counts(report.wins_by_position, "place ")
    if report.widths and report.heights:
        for name, sides in (("width", report.widths), ("height", report.heights)):
            yield name, f"{sides.smallest} to {sides.largest}, median {sides.median} px"
        yield "shorter side", _counts(report.shorter_sides, suffix=" px")
        yield "sizes differ inside", f"{report.mixed_sizes:,} groups"
    yield "unreadable", f"{report.unreadable_groups:,} groups"
    yield "skipped", _counts(report.skipped) or "0"
    yield "same picture twice", f"{report.same_picture.count:,} groups"
    yield "repeated", f"{report.repeated_pictures:,} pictures, {report.repeated_groups.count:,} whole groups"
    yield "prompts", f"{report.prompts:,} different, {report.empty_prompts.count:,} empty"
    if report.prompt_words:
        words = report.prompt_words
        yield "prompt length", f"{words.smallest} to {words.largest}, median {words.median} words"
    for split, shared in report.leaks.items():
        yield f"also in {split}", f"{shared.count:,} prompts"


def _counts(counts: Mapping[Any, int], prefix: str = "", suffix: str = "") -> str:
    return ", ".join(f"{prefix}{name}{suffix}: {count:,}" for name, count in counts.items())
