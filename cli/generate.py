"""`palate generate MODEL`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def generate_command(
    model: Annotated[
        str, typer.Argument(help="A diffusers folder, a hub id, or a name: sdxl, sd3-medium, tiny-sdxl, ...")
    ],
    prompt: Annotated[list[str] | None, typer.Option("--prompt", "-p", help="A prompt; may be given again.")] = None,
    prompts: Annotated[
        list[Path] | None, typer.Option(help="A text file, one prompt a line; may be given again.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the pictures and their `images.jsonl`.")] = Path("generated"),
    lora: Annotated[str | None, typer.Option(help="LoRA weights: a folder, a file or a hub id.")] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**62, help="The first picture's seed; each further picture of a prompt adds 1.")
    ] = 0,
    images: Annotated[int, typer.Option(min=1, help="Pictures for each prompt.")] = 1,
    steps: Annotated[int | None, typer.Option(min=1, help="Sampling steps; the family's default.")] = None,
    guidance: Annotated[float | None, typer.Option(min=0, help="Guidance scale; the family's default.")] = None,
    resolution: Annotated[int | None, typer.Option(min=8, help="Pixels a side; the checkpoint's own.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures at once.")] = 8,
    revision: Annotated[str | None, typer.Option(help="Of the model on the hub.", show_default=False)] = None,
    variant: Annotated[
        str | None, typer.Option(help="The weights' file variant, such as fp16.", show_default=False)
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16; auto: bfloat16 on a GPU.")] = "auto",
) -> None:
    """Draw pictures from prompts; the same command draws only what is still missing."""
    from ..t2i.gallery import Wanted, draw_gallery, read_prompts
    from .stages import stages

    texts = [*(prompt or []), *(text for file in prompts or [] for text in read_prompts(file))]
    lora = os.path.expanduser(lora) if lora else None
    wanted = Wanted(texts, images, seed, steps, guidance, resolution, batch_size, dtype, lora, revision, variant)
    with stages() as (say, advance):
        drawn = draw_gallery(model, wanted, out, advance)
        if drawn.cut_prompts:
            say(f"{drawn.cut_prompts} prompts are longer than the text encoder reads; their ends are not seen")
        say(f"{drawn.new} pictures drawn, {drawn.kept} were there: {drawn.manifest}")
