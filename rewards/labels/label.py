"""Preference groups without people: the pictures of each prompt, labelled by an ensemble of scorers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from ...datasets.ahead import default_workers, ordered_map
from ...datasets.group import Group
from ...datasets.parquet import Written, own_shards, write_groups
from ...datasets.skips import BAD_ROW, SkipLog, Skipped
from ...errors import UserError
from ..scorer import Scorer
from ..scoring.batch import Advance, Scored, score_images
from ..scoring.rows import GENERATED, Rows, open_rows
from .ensemble import Ensemble
from .scored_pictures import Candidate, ScoreTable, candidates_by_prompt, read_score_table

SAME_PICTURE = "same picture twice"
TOO_FEW = "fewer than two candidates"

Mode = Literal["new", "overwrite"]


@dataclass(frozen=True)
class Labelled:
    """What was written and what was left out.

    written     groups and shards
    rater       the ensemble's name, as the groups have it
    candidates  in the groups
    ties        groups in which nothing is preferred
    pictures    candidates that were left out, each with its reason
    prompts     prompts that were left out for want of two candidates
    groups      groups of the source that could not be read
    scored      the scoring run; None where the scores were there
    """

    written: Written
    rater: str
    candidates: int
    ties: int
    pictures: SkipLog
    prompts: SkipLog
    groups: SkipLog
    scored: Scored | None = None


def label_images(
    source: str | Path,
    scorers: Sequence[Scorer],
    out: str | Path,
    *,
    combination: str = "win",
    weights: Mapping[str, float] | None = None,
    prompts: str | Path | None = None,
    mode: Mode = "new",
    batch_size: int = 32,
    workers: int | None = None,
    upright: bool = True,
    advance: Advance | None = None,
) -> Labelled:
    """Score the pictures of `source` and write one group for each prompt into `out`; see `label_scored`.

    The scoring run has its folder beside the output (`scores_folder`), and goes on where it was stopped.

    Args:
        scorers: from `open_scorers`, or `scorer_of` a reward.
        batch_size: of the scoring, as `workers` and `upright`; see `score_images`.

    Raises:
        UserError: what `score_images` or `label_scored` refuses; what can be told before the scoring is.
    """
    names = [scorer.name for scorer in scorers]
    settings: dict[str, Any] = {"combination": combination, "weights": weights, "prompts": prompts, "mode": mode}
    rows = require_labelling(source, out, names, **settings)
    log = scores_folder(out)
    run = score_images(rows, scorers, log, batch_size=batch_size, workers=workers, upright=upright, advance=advance)
    assert run.tables is not None, "the only shard is done"
    labelled = label_scored(source, run.tables[0], out, scorers=names, workers=workers, advance=advance, **settings)
    return replace(labelled, scored=run)


def label_scored(
    source: str | Path,
    scores: str | Path,
    out: str | Path,
    *,
    scorers: Sequence[str] | None = None,
    combination: str = "win",
    weights: Mapping[str, float] | None = None,
    prompts: str | Path | None = None,
    mode: Mode = "new",
    workers: int | None = None,
    advance: Advance | None = None,
) -> Labelled:
    """Write one group for each prompt of `source` into the folder `out`, labelled by scores that are there.

    A group holds all pictures of its prompt, wherever they stand in the source: its `labels` are the ensemble's, its
    `aspects` the single scorers' scores, its `rater` the ensemble's name; `model` and `seed` are the source's. Labels
    and aspects that the source has are not kept. Left out and counted: a picture that lacks a score, is there twice,
    cannot be decoded or has changed since it was scored; a prompt with fewer than two others. Memory holds the scores,
    and of groups and Parquet the pictures of those prompts that have not all come yet.

    Args:
        source: what `open_rows` takes.
        scores: a `scores.parquet`, or its folder, of a scoring run over these pictures and prompts.
        scorers: whose columns count; None for all.
        combination: a name in `ensemble.COMBINATIONS`.
        weights: by scorer; see `Ensemble`.
        prompts: see `open_rows`.
        mode: "new" refuses a folder that holds anything; "overwrite" replaces the shards in it, and refuses other
            Parquet files; the old shards go as soon as the first group is made.
        workers: threads that read and check pictures.
        advance: called with a stage's name, prompts done and prompts in all.

    Raises:
        UserError: the scores cannot be read or lack a scorer, there are no prompts, the output is in use or lies in
            the source, or nothing is left to label.
    """
    out = Path(out).expanduser()
    table = read_score_table(scores, scorers)
    rows = require_labelling(
        source, out, table.names, combination=combination, weights=weights, prompts=prompts, mode=mode
    )
    ensemble = Ensemble(table.names, combination, weights or {})
    pictures, left, counts = SkipLog(), SkipLog(), {"candidates": 0, "ties": 0}

    def groups() -> Iterator[Group]:
        items = candidates_by_prompt(source, rows, table, pictures)
        threads = default_workers() if workers is None else workers
        built = ordered_map(lambda item: _build(*item, table, ensemble, _name(source)), items, threads)
        for done, (_, (group, faults)) in enumerate(built, 1):
            _note(faults, pictures)
            if isinstance(group, Skipped):
                _note([group], left)
            else:
                counts["candidates"] += group.size
                counts["ties"] += group.is_tie
                yield group
            if advance is not None:
                advance("labelling", done, max(done, len(table.expected)))

    stream = groups()
    first = next(stream, None)  # before the folder is touched
    if first is None:
        raise UserError(f"nothing to label in {str(source)!r}: {_why_nothing(pictures, left)}")
    written = write_groups(chain([first], stream), out, mode=mode)
    return Labelled(written, ensemble.rater, counts["candidates"], counts["ties"], pictures, left, rows.skipped)


def scores_folder(out: str | Path) -> Path:
    """Where the scores of a set are kept: beside it, with `.scores` at the end of its name."""
    return Path(f"{Path(out).expanduser()}.scores")


def require_labelling(
    source: str | Path,
    out: str | Path,
    scorers: Sequence[str],
    *,
    combination: str = "win",
    weights: Mapping[str, float] | None = None,
    prompts: str | Path | None = None,
    mode: Mode = "new",
) -> Rows:
    """The pictures and prompts, once all is refused that can be before gigabytes of scorers are loaded.

    Raises:
        UserError: see `label_scored`.
    """
    Ensemble(tuple(scorers), combination, weights or {})
    _require_room(source, Path(out).expanduser(), mode)
    rows = open_rows(source, prompts)
    if not rows.has_prompts:
        what = rows.how_to_prompt("name a file or a column")
        raise UserError(f"{source} has no prompts, and a group is one prompt's pictures; {what}")
    return rows


def _require_room(source: str | Path, out: Path, mode: Mode) -> None:
    """Refuse before hours of scoring what `write_groups` would refuse after them, and the source itself."""
    path, target = Path(source).expanduser().resolve(), out.resolve()
    if target in (path, *path.parents):
        raise UserError(f"{out} is, or holds, the source itself: name another folder")
    if path.is_dir() and path in target.parents:  # what is written would be read as part of the source
        raise UserError(f"{out} lies inside the source {source}: name a folder outside")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: name a folder for the groups")
    if mode == "new" and out.is_dir() and any(out.iterdir()):
        raise UserError(f"{out} is not empty: name another folder, or overwrite it (--overwrite)")
    if mode == "overwrite":
        own_shards(out)


def _name(source: str | Path) -> str:
    """What groups call their source: a folder's or a file's name, and that of the folder that was generated."""
    path = Path(source).expanduser().resolve()
    return path.parent.name if path.name == GENERATED else path.name


def _build(
    prompt: str, candidates: Sequence[Candidate], table: ScoreTable, ensemble: Ensemble, source: str
) -> tuple[Group | Skipped, list[Skipped]]:
    """The group, or why there is none; and the candidates that were left out. In a worker's thread."""
    kept: dict[str, tuple[Candidate, bytes]] = {}
    faults: list[Skipped] = []
    for candidate in candidates:
        digest = table.digests[candidate.place]
        if digest in kept:
            faults.append(Skipped(candidate.name, SAME_PICTURE, f"as {kept[digest][0].name}"))
            continue
        data = candidate.read(digest)
        if isinstance(data, Skipped):
            faults.append(data)
        else:
            kept[digest] = candidate, data
    if len(kept) < 2:
        return Skipped(prompt, TOO_FEW, f"{len(kept)}"), faults
    try:
        return _group(prompt, list(kept.values()), table, ensemble, source), faults
    except ValueError as error:
        return Skipped(prompt.encode("utf-8", "replace").decode(), BAD_ROW, str(error)), faults


def _group(
    prompt: str, kept: Sequence[tuple[Candidate, bytes]], table: ScoreTable, ensemble: Ensemble, source: str
) -> Group:
    scores = table.values[[candidate.place for candidate, _ in kept]]
    origins = [candidate.origin for candidate, _ in kept]
    captions = tuple(origin.caption for origin in origins if origin.caption is not None)
    return Group(
        key=f"prompt-{hashlib.blake2b(prompt.encode('utf-8', 'replace'), digest_size=8).hexdigest()}",
        prompt=prompt,
        candidates=tuple(data for _, data in kept),
        labels=tuple(ensemble.labels(scores).tolist()),
        captions=captions if len(captions) == len(kept) else None,
        aspects={name: tuple(scores[:, column].tolist()) for column, name in enumerate(table.names)},
        source=source,
        model=_told(origin.model for origin in origins),
        seed=_told(origin.seed for origin in origins),
        rater=ensemble.rater,
    )


def _told(values: Iterator[Any]) -> tuple[Any, ...] | None:
    """None where nothing is known of any candidate."""
    told = tuple(values)
    return None if all(value is None for value in told) else told


def _note(faults: Sequence[Skipped], log: SkipLog) -> None:
    for fault in faults:
        log.add(fault.key, fault.reason, fault.detail)


def _why_nothing(pictures: SkipLog, prompts: SkipLog) -> str:
    told = [log.summary() for log in (prompts, pictures) if log.total]
    examples = [*pictures.examples, *prompts.examples]
    return "; ".join([*told, f"the first is {examples[0]}"]) if examples else "it holds no images"
