"""A plan's pictures on disk: one generator in memory at a time, each picture whole or absent."""

from __future__ import annotations

import gc
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image

from ....datasets.counted import counted
from ...gallery import load_lora
from ...generate import draw_pictures
from ..samples import png
from .folder import write_whole
from .generators import OpenGenerator
from .plan import Picture, Plan

_PROMPTS_AT_ONCE = 256
"""Whose embeddings are in memory together, 1.4 GB for SD3 in float32; for more, the text encoders are loaded again."""

_FLAT = 4
"""Levels of 255. No picture lies between so few; a broken decoder's does: black, which NaN becomes, or one colour."""

_TOLD = 10  # flat pictures of a generator that are named at once; the report names all


def draw_missing(
    plan: Plan,
    folder: Path,
    shard: tuple[int, int],
    say: Callable[[str], None],
    advance: Callable[[str, int, int], None],
) -> tuple[int, int]:
    """Draw those pictures of a shard that are not in `folder`; returns how many are new and how many were there.

    A batch that lacks a picture is drawn whole, for what stands beside a picture decides its last digits.
    """
    new = kept = 0
    for number, one in enumerate(plan.generators):
        there = {path.name for path in folder.iterdir()}
        batches = list(plan.batches(number, shard))
        missing = [batch for batch in batches if any(picture.image not in there for picture in batch)]
        total = sum(picture.image not in there for batch in missing for picture in batch)
        new, kept = new + total, kept + sum(map(len, batches)) - total
        _draw_batches(one, missing, there, total, folder, say, advance)
    return new, kept


def is_flat(data: bytes) -> bool:
    """Whether a picture file shows one colour and nothing else."""
    with Image.open(io.BytesIO(data)) as picture:
        ranges = picture.convert("RGB").getextrema()
    return all(high - low < _FLAT for low, high in ranges)  # type: ignore[misc, operator]


def _draw_batches(
    one: OpenGenerator,
    batches: Sequence[Sequence[Picture]],
    there: set[str],
    total: int,
    folder: Path,
    say: Callable[[str], None],
    advance: Callable[[str, int, int], None],
) -> None:
    """Write what is not there yet."""
    name = one.generator.called
    done = flat = cut = 0

    def keep(picture: Picture, drawn: Image.Image) -> None:
        nonlocal done, flat
        if picture.image in there:
            return
        data = png(drawn)
        write_whole(folder / picture.image, data)
        if is_flat(data):
            flat += 1
            if flat <= _TOLD:
                say(f"one colour: {picture.image} by {name}, seed {picture.seed}, {picture.prompt!r}")
        done += 1
        advance(f"drawing with {name}", done, total)

    for chunk in _chunks(batches, _PROMPTS_AT_ONCE):
        cut += _draw_chunk(one, chunk, keep)
        gc.collect()
        if one.device.type == "cuda":
            torch.cuda.empty_cache()
    if cut:
        say(f"the text encoder of {name} does not read {counted(cut, 'prompt')} to the end: too long")


def _draw_chunk(
    one: OpenGenerator, batches: Sequence[Sequence[Picture]], keep: Callable[[Picture, Image.Image], None]
) -> int:
    """Encode the prompts, free the text encoders, load the network, draw; returns how many prompts are too long."""
    model = one.load()
    prompts = list(dict.fromkeys(picture.prompt for batch in batches for picture in batch))
    # One by one, so that a picture does not depend on which prompts stand beside it.
    encoded = {prompt: _on_cpu(model.encode_prompts([prompt])) for prompt in prompts}
    empty = model.encode_prompts([""])
    cut = model.count_truncated(prompts)
    model.free("text")
    pipeline = load_lora(model, one.generator.lora)
    for batch in batches:
        rows = {name: torch.cat([encoded[picture.prompt][name] for picture in batch]) for name in empty}
        seeds = [picture.seed for picture in batch]
        for picture, drawn in zip(batch, draw_pictures(model, pipeline, rows, empty, seeds, one.sampling), strict=True):
            keep(picture, drawn)
    return cut


def _on_cpu(conditions: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.cpu() for name, tensor in conditions.items()}


def _chunks(batches: Sequence[Sequence[Picture]], prompts: int) -> Iterator[list[Sequence[Picture]]]:
    """Batches in order, together as many as have about so many prompts."""
    chunk: list[Sequence[Picture]] = []
    seen: set[str] = set()
    for batch in batches:
        chunk.append(batch)
        seen.update(picture.prompt for picture in batch)
        if len(seen) >= prompts:
            yield chunk
            chunk, seen = [], set()
    if chunk:
        yield chunk
