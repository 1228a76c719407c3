"""Score many pictures with many scorers: each picture read and decoded once, in threads, each block logged.

Rows are taken in blocks of `batch_size`, and all scorers run on each block. What is scored together depends on a row's
place in the list alone, never on how often the run was stopped or among how many processes it was shared: so a run that
was killed and resumed, or three shards together, end in the same bytes as one run in one go. (Where a GPU's memory does
not hold a batch, it is halved: then the last digits may differ between cards.)
"""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...datasets.ahead import default_workers
from ...errors import UserError
from ..scorer import UNNAMED, Label, Scorer
from ..texts import TextPlan
from .asking import is_unicode
from .history import Record, text_of
from .log import ScoreLog, Terms
from .provenance import computing, provenance, versions
from .rows import Rows, open_rows
from .run import ScoringRun
from .table import write_tables

Advance = Callable[[str, int, int], None]
"""`(stage, done, total)`: called as scoring goes on."""


@dataclass(frozen=True)
class Scored:
    """What a run did.

    images    rows of this process's shard
    new       scores that were computed, by scorer
    failures  rows without a score, by scorer
    reasons   the first few rows that failed: what each is called, and why
    tables    Parquet, JSON Lines and provenance; None where other shards are not done yet
    skipped   groups that could not be read
    """

    images: int
    new: Mapping[str, int]
    failures: Mapping[str, int]
    reasons: tuple[tuple[str, str], ...]
    tables: tuple[Path, Path, Path] | None
    skipped: int = 0


def score_images(
    source: str | Path | Rows,
    scorers: Sequence[Scorer],
    out: str | Path,
    *,
    prompts: str | Path | None = None,
    batch_size: int = 32,
    shard: tuple[int, int] = (0, 1),
    workers: int | None = None,
    upright: bool = True,
    reuse: Sequence[str | Path] = (),
    advance: Advance | None = None,
) -> Scored:
    """Score every picture of `source` and write `scores.parquet`, `scores.jsonl` and `scores.meta.json` into `out`.

    The same call goes on where it was stopped; with more scorers or pictures it computes only what is new (bytes,
    prompt, scorer and settings tell). A picture or prompt that cannot be scored is NaN with its reason, and the next
    call tries it again. Memory holds two blocks at most, whatever the number of pictures, and the names of a folder's
    files.

    Args:
        source: what `open_rows` takes.
        scorers: from `open_scorers`, or `scorer_of` a reward. Those that are no `PixelReward` and no `BatchedReward`
            are called picture by picture, never by two threads at once.
        prompts: see `open_rows`.
        batch_size: pictures of one forward pass; halved where memory does not hold them.
        shard: (number from 0, count): this process takes every count-th block. All shards write into one `out`; the
            one that finds the others done writes the tables.
        workers: threads that decode and prepare.
        upright: turn pictures as their EXIF says.
        reuse: other runs' folders, whose scores of the same bytes, prompt and settings are not computed anew.
        advance: called with a stage's name, rows done and rows in all.

    Raises:
        UserError: no scorers, no images, no prompts for a scorer that needs them, a source that cannot be read, a
            folder `out` among groups.
        PalateError: memory does not hold a single picture.
    """
    return score_in_passes(
        source,
        [lambda: scorers],
        out,
        prompts=prompts,
        batch_size=batch_size,
        shard=shard,
        workers=workers,
        upright=upright,
        reuse=reuse,
        advance=advance,
    )


def score_in_passes(
    source: str | Path | Rows,
    passes: Sequence[Callable[[], Sequence[Scorer]]],
    out: str | Path,
    *,
    prompts: str | Path | None = None,
    batch_size: int = 32,
    shard: tuple[int, int] = (0, 1),
    workers: int | None = None,
    upright: bool = True,
    reuse: Sequence[str | Path] = (),
    advance: Advance | None = None,
) -> Scored:
    """`score_images` for more scorers than memory holds at once: it goes over the pictures once for each of `passes`.

    Args:
        passes: each opens its scorers when its turn comes; they are let go before the next is called.
    """
    if not 0 <= shard[0] < shard[1]:
        raise UserError(f"shard {shard[0]} of {shard[1]} is none; they count from 0 to {max(shard[1] - 1, 0)}")
    rows = source if isinstance(source, Rows) else open_rows(source, prompts)
    out, others = Path(out).expanduser(), [Path(folder).expanduser() for folder in reuse]
    if rows.folder is not None and rows.folder.resolve() in (out.resolve(), *out.resolve().parents):
        raise UserError(f"{out} lies in {rows.source}, where its tables would be read as groups; name another folder")
    total, plan, texts = survey(rows, batch_size, upright)
    if not total:
        raise UserError(f"{rows.source} holds no images")
    blocks = -(-total // batch_size)
    mine = sum(min(batch_size, total - number * batch_size) for number in range(shard[0], blocks, shard[1]))
    done = Scored(mine, {}, {}, (), None, 0)
    labels: list[Label] = []
    here = versions()
    with ExitStack() as held:  # the log's lock, from the first pass to the tables
        log: ScoreLog | None = None
        for number, opener in enumerate(passes, start=1):
            scorers = list(opener())
            labels += [scorer.label for scorer in scorers]
            _require(scorers, labels, rows, shard[1])
            terms = _terms([scorer.label for scorer in scorers], upright, here)
            if log is None:
                log = held.enter_context(ScoreLog(out, plan, terms, shard, others))
            else:
                log.turn_to(terms, others)
            run = ScoringRun(scorers, log, batch_size, upright, texts)
            stage = "scoring" if len(passes) == 1 else f"scoring {number}/{len(passes)}: {', '.join(terms)}"
            images = 0
            for count in run.go(rows, shard, default_workers() if workers is None else workers):
                images += count
                if advance is not None:
                    advance(stage, images, mine)
            done = replace(
                done,
                new={**done.new, **run.new},
                failures={**done.failures, **run.failures},
                reasons=tuple(dict.fromkeys((*done.reasons, *run.reasons))),
                skipped=rows.skipped.total,
            )
            del run, scorers
            if number < len(passes):
                _free_memory()
        if log is None:
            return done
        log.turn_to(_terms(labels, upright, here))  # other shards have gone on meanwhile
        return replace(done, tables=_write(log, blocks, provenance(labels, here, batch_size, upright)))


def _require(scorers: Sequence[Scorer], labels: Sequence[Label], rows: Rows, shards: int) -> None:
    if not scorers:
        raise UserError("there are no scorers; name at least one")
    names = [label.name for label in labels]
    if len(set(names)) < len(names):
        raise UserError(f"two scorers have the same name: {', '.join(names)}")
    if unnamed := [label.name for label in labels if UNNAMED in label.settings and shards > 1]:
        raise UserError(
            f"{unnamed[0]} is another scorer in each process, and their scores cannot be joined: give the function a "
            "version, or scorer_of a setting"
        )
    needing = [scorer.name for scorer in scorers if scorer.needs_prompts]
    if needing and not rows.has_prompts:
        what = rows.how_to_prompt("name a file or a column")
        raise UserError(f"{rows.source} has no prompts, and {', '.join(needing)} need them; {what}")


def _terms(labels: Sequence[Label], upright: bool, here: Mapping[str, str]) -> dict[str, Terms]:
    """By scorer; a turned picture has other scores."""
    turned = "upright" if upright else "as stored"
    return {
        label.name: Terms(f"{label.fingerprint} {turned}", label.needs_prompts, text_of(computing(label, here)))
        for label in labels
    }


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _write(log: ScoreLog, blocks: int, about: Mapping[str, Any]) -> tuple[Path, Path, Path] | None:
    """The tables, or None while other shards are at work."""
    names = list(log.terms)
    if not all(_is_complete(log.block(number), names) for number in range(blocks)):
        return None
    others = log.other_versions(blocks)
    return write_tables(log, blocks, names, {**about, "other_versions": others} if others else about, log.folder)


def survey(rows: Rows, batch_size: int, upright: bool = True) -> tuple[int, str, TextPlan]:
    """The number of rows, a digest of what they are called and of what else decides what is scored together, and the
    prompts, each with those that first come in the same block."""
    digest, total, texts = hashlib.sha256(json.dumps([batch_size, upright]).encode()), 0, TextPlan()
    for row in rows.read():
        digest.update(json.dumps([row.key, row.image, row.prompt]).encode())
        if row.prompt is not None and is_unicode(row.prompt):
            texts.add(row.prompt, total // batch_size)
        total += 1
    return total, digest.hexdigest()[:16], texts


def _is_complete(record: Record | None, names: Sequence[str]) -> bool:
    return record is not None and all(name in record.columns for name in names)
