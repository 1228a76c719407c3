"""`palate data synpic PROMPTS --from sdxl,sd3-medium --with pickscore,hpsv2.1 --out GROUPS`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .scorers import DEVICE, WEIGHTS, WITH, launched, place, read_assets, read_names, read_shard, split_names

if TYPE_CHECKING:
    from ..t2i.build.synpic.build import SynPic
    from ..t2i.build.synpic.generators import Generator

_FROM = (
    "Models, with commas between: diffusers folders, hub ids, or names (sdxl, sd3-medium, tiny-sdxl, ...). NAME=MODEL "
    "gives one a name of its own; may be given again."
)
_EACH = "NAME=VALUE is for one model; may be given again."
_SHARD = "I/N: only the I-th of N parts; the last to end writes the groups. `accelerate launch` sets it by itself."
_SHOWN = 10
_KINDS = {"images": int, "steps": int, "resolution": int, "guidance": float, "lora": os.path.expanduser}


def synpic_command(
    prompts: Annotated[list[Path], typer.Argument(help="Text files, one prompt a line.", show_default=False)],
    models: Annotated[list[str], typer.Option("--from", help=_FROM, show_default=False)],
    scorers: Annotated[str, typer.Option("--with", help=WITH, show_default=False)],
    out: Annotated[Path, typer.Option(help="Where the Parquet shards go: a new or empty folder.", show_default=False)],
    images: Annotated[list[str] | None, typer.Option(help=f"Pictures for each prompt; 1. {_EACH}")] = None,
    steps: Annotated[list[str] | None, typer.Option(help=f"Sampling steps; the family's default. {_EACH}")] = None,
    guidance: Annotated[list[str] | None, typer.Option(help=f"Guidance scale; the family's default. {_EACH}")] = None,
    resolution: Annotated[list[str] | None, typer.Option(help=f"Pixels a side; the checkpoint's own. {_EACH}")] = None,
    lora: Annotated[list[str] | None, typer.Option(help=f"LoRA weights: a folder, a file or a hub id. {_EACH}")] = None,
    revision: Annotated[list[str] | None, typer.Option(help=f"Of the model on the hub. {_EACH}")] = None,
    variant: Annotated[list[str] | None, typer.Option(help=f"The weights' file variant, such as fp16. {_EACH}")] = None,
    seed: Annotated[int, typer.Option(help="Of all pictures; each has one of its own.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures that a model draws at once.")] = 8,
    dtype: Annotated[str, typer.Option(help="Of the models: float32, bfloat16, float16; auto: bfloat16 on a GPU.")] = (
        "auto"
    ),
    weights: Annotated[list[str] | None, typer.Option(help=WEIGHTS)] = None,
    device: Annotated[str, typer.Option(help=DEVICE)] = "auto",
    shard: Annotated[str | None, typer.Option(help=_SHARD, show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Make rankings as Syn-Pic does: each prompt drawn by several models, labelled by several scorers.

    Pictures are kept in OUT.pictures and scores in OUT.scores: the same command goes on where it stopped. Groups are of
    one size: where a picture is of one colour or has no score, its group is left out and named. Exit code: 0 written,
    or left to the other shards; 2 the request cannot be met.
    """
    names = read_names(scorers)
    part, alone = launched() if shard is None else read_shard(shard), shard is not None
    assets = read_assets(weights or [])
    given = {"images": images, "steps": steps, "guidance": guidance, "resolution": resolution}
    given |= {"lora": lora, "revision": revision, "variant": variant}
    generators = _generators(models, given)
    from ..t2i.gallery import read_prompts

    texts = [text for file in prompts for text in read_prompts(file)]
    placed, _ = place(device, None)
    from ..t2i.build.synpic.build import build_synpic
    from .stages import stages

    with stages() as (say, advance):
        done = build_synpic(
            texts,
            generators,
            names,
            out,
            assets=assets,
            seed=seed,
            batch_size=batch_size,
            dtype=dtype,
            device=placed,
            shard=part,
            say=say,
            advance=advance if alone or part[0] == 0 else lambda *_: None,  # of several processes, one shows
        )
    _tell(done, out, as_json)


def _generators(models: list[str], given: Mapping[str, list[str] | None]) -> list[Generator]:
    """`["base=sdxl,sd3-medium"]` and each setting's texts as generators."""
    from ..errors import UserError
    from ..t2i.build.synpic.generators import Generator

    paths: dict[str, str] = {}
    for text in (part for several in models for part in split_names(several)):
        name, equals, path = text.partition("=")
        if name in paths:
            raise UserError(f"--from names {name} twice; give each a name of its own, such as a={name},b={name}")
        if equals and not (name and path):
            raise UserError(f"--from is {text!r}; it is MODEL or NAME=MODEL, such as tuned=stabilityai/sdxl-turbo")
        paths[name] = path if equals else text
    settings: dict[str, dict[str, Any]] = {name: {} for name in paths}
    for setting, texts in given.items():
        for name, value in _by_name(setting, texts or [], list(paths)).items():
            settings[name][setting] = value
    return [Generator(path, name, **settings[name]) for name, path in paths.items()]


def _by_name(setting: str, texts: list[str], names: list[str]) -> dict[str, Any]:
    """`["30", "sd3=28"]` as a value for each name; what is said of one counts more than what is said of all."""
    from ..errors import UserError

    everyone, single = {}, {}
    for text in texts:
        name, equals, value = text.partition("=")
        if equals and name not in names:
            raise UserError(f"--{setting} is {text!r}, and no model is called {name!r}; they are {', '.join(names)}")
        try:
            read = _KINDS.get(setting, str)(value if equals else text)
        except ValueError:
            raise UserError(f"--{setting} is {text!r}; it is a number, or NAME=NUMBER for one model") from None
        (single if equals else everyone).update(dict.fromkeys([name] if equals else names, read))
    return everyone | single


def _tell(done: SynPic, out: Path, as_json: bool) -> None:
    from ..datasets.counted import counted
    from ..t2i.build.synpic.build import pictures_folder
    from ..t2i.build.synpic.groups import REPORT

    if as_json:
        typer.echo(json.dumps(asdict(done), ensure_ascii=False))
        return
    drawn = f"{counted(done.drawn, 'picture')} drawn, {done.kept:,} already there"
    if done.groups is None:
        typer.echo(f"{drawn}; the last of the shards writes the groups")
        return
    groups = f"{counted(done.groups, 'group')} of {done.size} candidates"
    typer.echo(f"{groups}, labelled by {done.rater}, in {out} ({drawn})")
    if done.ties:
        typer.echo(f"nothing is preferred in {counted(done.ties, 'group')}: ties")
    if done.left_out:
        pictures = counted(len(done.left_out), "picture")
        typer.echo(f"{counted(done.groups_left_out, 'group')} left out, for {pictures}:")
        for one in done.left_out[:_SHOWN]:
            typer.echo(f"  {one}")
    if len(done.left_out) > _SHOWN:
        typer.echo(f"  ... and {len(done.left_out) - _SHOWN:,} more, all in {pictures_folder(out) / REPORT}")
