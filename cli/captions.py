"""`palate data captions GROUPS --out DUAL --mode hybrid --captioner MODEL --perturber rules --strength medium`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .scorers import DEVICE, DTYPE, place

if TYPE_CHECKING:
    from ..t2i.build.captions.build import Captioned
    from ..t2i.build.captions.perturb import ModelPerturber
    from ..t2i.build.captions.plan import CaptionPlan
    from ..t2i.build.captions.rules import RulePerturber

_MODE = (
    "caption: each candidate has what its picture shows (DCPO-c); perturb: the winner keeps the prompt, the losers "
    "have it changed (DCPO-p); hybrid: the winner has what it shows, the losers what they show, changed (DCPO-h); tpo: "
    "the best picture twice, with its caption or prompt and with that changed (TPO)."
)
_CAPTIONER = "A vision-language chat model: a folder or a hub id. In hybrid and tpo, groups with captions need none."
_PERTURBER = "rules, which need no model, or a language model: a folder or a hub id.  [default: rules]"
_TEMPLATE = "What the model is asked: a text with {prompt} in it, or a text file."


def captions_command(
    source: Annotated[
        str, typer.Argument(help="Groups: a file, a folder, a pattern, or a hub id (owner/name).", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Where the Parquet shards go: a new or empty folder.", show_default=False)],
    mode: Annotated[str, typer.Option(help=_MODE, show_default=False)],
    captioner: Annotated[str | None, typer.Option(help=_CAPTIONER, show_default=False)] = None,
    perturber: Annotated[str | None, typer.Option(help=_PERTURBER, show_default=False)] = None,
    strength: Annotated[
        str,
        typer.Option(
            help="How much is changed: weak, medium or strong, 40, 60 or 80 % (rules: of what says something)."
        ),
    ] = "medium",
    seed: Annotated[int, typer.Option(min=0, max=2**62, help="Of the changes; another gives other words.")] = 0,
    caption_template: Annotated[str | None, typer.Option(help=_TEMPLATE, show_default=False)] = None,
    perturb_template: Annotated[str | None, typer.Option(help=_TEMPLATE, show_default=False)] = None,
    caption_tokens: Annotated[int, typer.Option(min=1, help="A caption is cut off there.")] = 128,
    top_p: Annotated[float | None, typer.Option(help="A perturbing model's.  [default: 0.75]")] = None,
    temperature: Annotated[float | None, typer.Option(help="A perturbing model's.  [default: 1]")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="A perturbing model's.  [default: 256]")] = None,
    format: Annotated[str, typer.Option("--format", "-f", help="Of the groups; see `palate data convert`.")] = "auto",
    split: Annotated[str | None, typer.Option(help="Which split, where the source holds several.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many groups.")] = None,
    device: Annotated[str, typer.Option(help=DEVICE)] = "auto",
    dtype: Annotated[
        str | None, typer.Option(help=DTYPE.split(";")[0] + "; else bfloat16 on a GPU.", show_default=False)
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions at once, halved where memory is short.")] = 8,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the shards (groups-*.parquet) that are there.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Give each candidate of preference groups a caption of its own, for DCPO and TPO.

    What models answer is kept in OUT.answers.jsonl: the same command goes on where it stopped. Groups without a winner,
    or for which a model says nothing, are left out and named. Exit code: 0 written; 2 the request cannot be met.
    """
    from ..errors import UserError
    from ..rewards.questions import read_template

    if captioner is None and caption_template is not None:
        raise UserError("--caption-template is for a captioner, and there is none: give --captioner, or leave it out")
    decoding = {"top_p": top_p, "temperature": temperature, "max_tokens": max_tokens}
    decoding = {name: value for name, value in decoding.items() if value is not None}
    where: dict[str, Any] = {"batch_size": batch_size, **_placed(device, dtype)}
    writer = _perturber(mode, perturber, strength, seed, perturb_template, decoding, where)
    from ..t2i.build.captions import captioner as captioning
    from ..t2i.build.captions.build import caption_groups
    from ..t2i.build.captions.plan import CaptionPlan, Source
    from .stages import stages

    question = read_template(caption_template, captioning.TEMPLATE)
    teller = None if captioner is None else captioning.Captioner(captioner, question, caption_tokens, **where)
    plan = CaptionPlan(mode, teller, writer)
    with stages() as (_, advance):
        done = caption_groups(Source(source, format, split, limit), out, plan, overwrite=overwrite, advance=advance)
    _tell(done, plan, out, as_json)


def _placed(device: str, dtype: str | None) -> dict[str, Any]:
    import torch

    placed, precision = place(device, dtype)
    return {"device": placed, "dtype": precision or (torch.float32 if placed.type == "cpu" else torch.bfloat16)}


def _perturber(
    mode: str,
    model: str | None,
    strength: str,
    seed: int,
    template: str | None,
    decoding: dict[str, Any],
    where: dict[str, Any],
) -> RulePerturber | ModelPerturber | None:
    """By rules where no model is named."""
    from ..errors import UserError
    from ..rewards.questions import read_template

    if model in (None, "rules"):
        given = [*(["perturb_template"] if template is not None else []), *decoding]
        if given:
            raise UserError(f"--{given[0].replace('_', '-')} is for a model: name one by --perturber")
        from ..t2i.build.captions.rules import RulePerturber

        return None if model is None and mode == "caption" else RulePerturber(strength, seed)
    from ..t2i.build.captions.perturb import TEMPLATE, ModelPerturber
    from ..t2i.build.captions.text_model import Decoding

    return ModelPerturber(model, strength, seed, read_template(template, TEMPLATE), Decoding(**decoding), **where)


def _tell(done: Captioned, plan: CaptionPlan, out: Path, as_json: bool) -> None:
    from ..datasets.counted import counted

    if as_json:
        fields = {"mode": plan.mode, "groups": done.written.groups, "bytes": done.written.bytes, "asked": done.asked}
        fields |= {"shards": [str(shard) for shard in done.written.shards]}
        for name, log in (("left_out", done.left_out), ("skipped", done.skipped)):
            fields[name] = dict(log.counts)
            fields[f"{name}_examples"] = [str(example) for example in log.examples]
        typer.echo(json.dumps(fields, ensure_ascii=False))
        return
    groups, shards = counted(done.written.groups, "group"), counted(len(done.written.shards), "shard")
    size = f"{done.written.bytes / 1e6:,.1f} MB"
    typer.echo(f"{groups} with captions ({plan.mode}) to {shards} in {out} ({size})")
    for what, log in (("groups left out", done.left_out), ("rows skipped", done.skipped)):
        if log.total:
            typer.echo(f"{what}: {log.summary()}")
            for example in log.examples[:10]:
                typer.echo(f"  {example}")
