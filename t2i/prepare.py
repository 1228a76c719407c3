"""Preparation: look at the data, encode pictures and prompts once, free the encoders before the network is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from ..datasets.ahead import default_workers, ordered_map
from ..datasets.converted import Say, open_converted
from ..datasets.counted import counted
from ..datasets.digest import digest
from ..datasets.holdout import is_held_out
from ..datasets.provenance import models_named
from ..datasets.skips import SkipLog
from ..datasets.store import GroupStore
from ..errors import UserError
from .batches import PROMPTS_AT_ONCE, pictures_at_once
from .cache import TensorCache
from .fingerprint import fingerprint
from .framing import View, draw_view, frame
from .method import Method
from .models.architectures import architecture_at_hand
from .models.model import TextToImageModel
from .plan import Entry, Plan, make_plan, picture_bytes
from .recipe import DataConfig
from .sources import CachedSource, EncodingKeys, LiveSource, Source, framing_tensor, split_rows

Advance = Callable[[str, int, int], None]
"""`(stage, done, total)`: called as preparation goes on."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class Prepared:
    """What training reads; `easiest` orders the training groups for a curriculum, None without one."""

    train: Plan
    held_out: Plan | None
    source: Source
    resolution: int
    views: Callable[[int, int], View]
    easiest: np.ndarray | None = None


def prepare(
    model: TextToImageModel,
    data: DataConfig,
    method: Method,
    seed: int,
    say: Say = print,
    advance: Advance | None = None,
) -> Prepared:
    """Turn preferences into what the method reads.

    Raises UserError: no usable group, or a resolution that the autoencoder cannot divide.
    """
    advance = advance or (lambda stage, done, total: None)
    resolution = data.resolution or model.resolution
    if resolution % model.latent_shape[1]:
        raise UserError(f"data.resolution is {resolution}; it must be a multiple of {model.latent_shape[1]} pixels")
    if data.flip and "seeds" in method.requires:
        raise UserError(f"data.flip mirrors pictures and not the noise that {method.name} needs; set it to false")
    store = open_store(data, say)
    log = SkipLog()
    seen = iter(range(1, len(store) + 1))
    looked = partial(advance, "looking at pictures")
    plan = make_plan(
        store,
        method,
        data.ties,
        log,
        lambda _: looked(next(seen), len(store)),
        resolution,
        data.pairs,
        lru_cache(maxsize=None)(partial(_of_another_family, model.family.name)),
    )
    _report(plan, log, method, say)
    train, held_out = split_by_prompt(plan, data.holdout)
    easiest = train.easiest(seed) if data.order == "curriculum" else None  # refused before hours of encoding

    def views(row: int, variant: int) -> View:
        return draw_view(seed, row, variant, data.crop, data.flip)

    if data.cache is None:
        _say_truncated(model, plan.prompts(), say)
        return Prepared(train, held_out, LiveSource(store, model, resolution), resolution, views, easiest)
    family = model.family
    # The encoders' precision is part of the keys: float32 must not read what bfloat16 has left.
    keys = EncodingKeys(
        digest(fingerprint(model.checkpoint, ("vae",)), str(model.vae_dtype)),
        digest(fingerprint(model.checkpoint, (*family.text_encoders, *family.tokenizers)), str(model.dtype)),
        resolution,
        data.cache_dtype,
    )
    cache = TensorCache(Path(data.cache).expanduser())
    _encode_prompts(model, plan, cache, keys, say, advance)
    _encode_pictures(model, store, plan, cache, keys, data, views, advance)
    return Prepared(train, held_out, CachedSource(cache, keys, model), resolution, views, easiest)


def _of_another_family(family: str, told: str) -> bool:
    """Whether the model of that provenance is known to be of another family, whose latents are others."""
    other = next(filter(None, map(architecture_at_hand, models_named(told))), None)
    return other is not None and other.family != family


def open_store(data: DataConfig, say: Say) -> GroupStore:
    """The data as palate's Parquet; any other format is converted once, beside the cache."""
    return open_converted(data.path, data.format, data.split, Path(data.cache or "cache").expanduser(), say)


def split_by_prompt(plan: Plan, share: float) -> tuple[Plan, Plan | None]:
    """Training and held-out groups; a prompt is wholly in one of them, chosen by its hash.

    Raises UserError if either would be empty.
    """
    if share == 0:
        return plan, None
    out = [is_held_out(plan[i].prompt, share) for i in range(len(plan))]
    if all(out) or not any(out):
        side = "every" if all(out) else "no"
        raise UserError(f"data.holdout={share} would hold {side} prompt out of {len(plan)} groups; change it or set 0")
    return plan.subset([i for i, o in enumerate(out) if not o]), plan.subset([i for i, o in enumerate(out) if o])


def _report(plan: Plan, log: SkipLog, method: Method, say: Say) -> None:
    if log.total:
        say(f"{len(plan)} groups are used, {log.total} left out: {log.summary()}")
        for skipped in [s for s in log.examples if s.reason != "tie"][:5]:
            say(f"  {skipped}")
    if plan.foreign:
        say(f"pictures by {' and '.join(plan.foreign)} are left out: the noise is of another family's latents")
    if plan.says_nothing:
        say(f"all {len(plan)} groups are ties, kept by data.ties: there is no difference to learn from")
    if plan.captioned and "captions" not in method.requires:
        say(f"{plan.captioned} groups have a caption for each candidate, and {method.name} trains on these")
    if plan.rankings:
        taken = "the best" if method.candidates == 1 else "the best against the worst"
        have = f"{counted(plan.rankings, 'group')} {'has' if plan.rankings == 1 else 'have'}"
        say(f"{have} more candidates than {method.name} compares: it takes {taken}")


def _encode_prompts(
    model: TextToImageModel, plan: Plan, cache: TensorCache, keys: EncodingKeys, say: Say, advance: Advance
) -> None:
    prompts = ["", *plan.prompts()]
    missing = [prompt for prompt in prompts if keys.prompt(prompt) not in cache]
    if missing:
        _say_truncated(model, missing, say)
    for start in range(0, len(missing), PROMPTS_AT_ONCE):
        batch = missing[start : start + PROMPTS_AT_ONCE]
        for prompt, row in zip(batch, split_rows(model.encode_prompts(batch)), strict=True):
            cache.put(keys.prompt(prompt), row)
        advance("encoding prompts", start + len(batch), len(missing))
    model.free("text")


def _say_truncated(model: TextToImageModel, prompts: list[str], say: Say) -> None:
    cut = model.count_truncated(prompts)
    if cut:
        say(f"{cut} of {len(prompts)} prompts are longer than the text encoder reads; their ends are not seen")


def _encode_pictures(
    model: TextToImageModel,
    store: GroupStore,
    plan: Plan,
    cache: TensorCache,
    keys: EncodingKeys,
    data: DataConfig,
    views: Callable[[int, int], View],
    advance: Advance,
) -> None:
    dtype = getattr(torch, keys.dtype)
    wanted = _missing_pictures(
        plan, cache, keys, data.variants, views, lambda done: advance("encoding pictures", done, len(plan))
    )

    def framed(job: tuple[Entry, View]) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
        entry, view = job
        pictures = []
        for image, content in zip(entry.images, picture_bytes(store, entry), strict=True):
            pixels, framing = frame(content, keys.resolution, view)
            pictures.append((keys.latents(image, view), pixels, framing_tensor(framing)))
        return pictures

    jobs = (picture for _, pictures in ordered_map(framed, wanted, default_workers()) for picture in pictures)
    for batch in _batched(jobs, pictures_at_once(keys.resolution)):
        mean, std = model.encode_images(torch.stack([pixels for _, pixels, _ in batch]))
        for i, (key, _, framing) in enumerate(batch):
            cache.put(key, {"mean": mean[i].to(dtype), "std": std[i].to(dtype), "framing": framing})
    model.free("vae")


def _missing_pictures(
    plan: Plan,
    cache: TensorCache,
    keys: EncodingKeys,
    variants: int,
    views: Callable[[int, int], View],
    on_group: Callable[[int], None],
) -> Iterator[tuple[Entry, View]]:
    """What the cache lacks. `on_group` hears how many groups have been passed, the few read ahead among them."""
    row, asked = -1, set[str]()
    for i in range(len(plan)):
        on_group(i + 1)
        entry = plan[i]
        if entry.row != row:  # several pairs of one group follow each other
            row, asked = entry.row, set()
        for variant in range(variants):
            view = views(entry.row, variant)
            wanted = {image: keys.latents(image, view) for image in entry.images}
            missing = [image for image, key in wanted.items() if key not in asked and key not in cache]
            asked.update(wanted.values())
            if missing:
                yield replace(entry, images=tuple(missing)), view


def _batched(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while batch := list(islice(items, size)):
        yield batch
