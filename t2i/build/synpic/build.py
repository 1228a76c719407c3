"""Syn-Pic: preference rankings without people, from several models' pictures and several rewards' opinions of them.

Paper: RankDPO, Karthik et al. 2024, https://arxiv.org/abs/2410.18013, algorithm 1. For each prompt k pictures are
drawn, one or more by each model; picture i's label is its mean chance to win, phi_i = C_i / (n (k - 1)), where C_i
counts over n rewards the pictures that i beats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ....errors import UserError
from ....rewards.labels.ensemble import Ensemble
from ....rewards.labels.label import scores_folder
from ....rewards.scorer import Label, Scorer, require_names
from ....rewards.scoring.batch import score_in_passes
from ....rewards.scoring.passes import passes_of
from ....rewards.scoring.rows import Row, Rows
from .drawing import draw_missing
from .folder import alone, claim
from .generators import Generator, open_generators
from .groups import LeftOut, read_report, require_scorers, write_whole_groups
from .plan import Plan, make_plan


@dataclass(frozen=True)
class SynPic:
    """What there is after a call.

    drawn     pictures that are new
    kept      pictures that were there
    size      k, the candidates of each group
    rater     the ensemble's name, as the groups have it
    groups    how many are written; None where other shards are not done yet
    ties      groups in which nothing is preferred
    left_out  every picture for which a group was left out
    """

    drawn: int
    kept: int
    size: int
    rater: str
    groups: int | None = None
    ties: int = 0
    left_out: tuple[LeftOut, ...] = ()

    @property
    def groups_left_out(self) -> int:
        """How many prompts have no group."""
        return len({one.prompt for one in self.left_out})


def pictures_folder(out: str | Path) -> Path:
    """Where the pictures of a set are kept: beside it, with `.pictures` at the end of its name."""
    return Path(f"{Path(out).expanduser()}.pictures")


def build_synpic(
    prompts: Sequence[str],
    generators: Sequence[Generator],
    scorers: Sequence[str | Scorer],
    out: str | Path,
    *,
    assets: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
    batch_size: int = 8,
    dtype: str = "auto",
    device: torch.device | str | None = None,
    shard: tuple[int, int] = (0, 1),
    say: Callable[[str], None] = lambda line: None,
    advance: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> SynPic:
    """Draw each prompt's pictures, score them and write one group for each prompt into the folder `out`.

    Pictures are kept in `pictures_folder(out)` with an `images.jsonl` as of `palate generate`, scores in
    `scores_folder(out)`. The same call goes on where it was stopped and, on a CPU, ends in the same bytes as one that
    never was. All groups have the same size: where a picture is of one colour (black, which NaN becomes, too), has no
    score, or is there twice, its group is left out and the picture named.

    Args:
        prompts: one that comes twice is one group.
        generators: the models, loaded one after the other.
        scorers: names, opened when all is drawn and as many at a time as memory holds; or open ones.
        assets: weights and other assets of named scorers.
        seed: of all pictures; each has one of its own, by the number of its prompt and its place in the group.
        batch_size: pictures that a generator draws at once. It decides the last digits, and may change when a run goes
            on; shards that run together take the same.
        dtype: of the generators: float32, bfloat16 or float16; auto: bfloat16 on a GPU.
        device: of generators and named scorers; None: a GPU where there is one.
        shard: (number from 0, count): this process draws and scores every count-th block of `batch_size` prompts. All
            shards write into one place; the one that finds the others done writes the groups.
        say: called with a line about what should be known at once.
        advance: called with a stage's name, items done and items in all.

    Raises:
        UserError: prompts, a generator, a scorer or a setting cannot be used, the folders hold something else or were
            begun with other settings, or no group is whole.
    """
    if not 0 <= shard[0] < shard[1]:
        raise UserError(f"shard {shard[0]} of {shard[1]} is none; they count from 0 to {max(shard[1] - 1, 0)}")
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; it must be 1 or more")
    out, folder = Path(out).expanduser(), pictures_folder(out)
    ensemble = Ensemble(tuple(one if isinstance(one, str) else one.name for one in scorers))
    named = [one for one in scorers if isinstance(one, str)]
    require_names(named, assets or {})
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    plan = make_plan(prompts, open_generators(generators, batch_size, dtype, place), seed, batch_size)
    claim(plan, folder, out)
    labels: dict[str, Label] = {}
    passes = _passes(scorers, assets or {}, place, labels)
    if (done := read_report(folder, out, ensemble)) is not None:
        for opener in passes:  # a name or a path stays the same when the weights behind it change
            opener()
        require_scorers(done, list(labels.values()), folder, out)
        kept = plan.size * len(plan.prompts)
        return SynPic(0, kept, plan.size, ensemble.rater, done.groups, done.ties, done.left_out)
    drawn, kept = draw_missing(plan, folder, shard, say, advance)
    scored = score_in_passes(
        _rows(plan, folder),
        passes,
        scores_folder(out),
        # A shard scores its own pictures, and no other: it need not wait for those who draw beside it.
        batch_size=plan.block * plan.size,
        shard=shard,
        advance=advance,
    )
    if scored.tables is None:
        return SynPic(drawn, kept, plan.size, ensemble.rater)
    with alone(folder):  # two shards may find each other done at the same moment
        told = list(labels.values())
        if (done := read_report(folder, out, ensemble)) is not None:
            require_scorers(done, told, folder, out)
        else:
            done = write_whole_groups(plan, folder, scored.tables[0], ensemble, told, out, advance)
    return SynPic(drawn, kept, plan.size, ensemble.rater, done.groups, done.ties, done.left_out)


def _passes(
    scorers: Sequence[str | Scorer],
    assets: Mapping[str, Mapping[str, Any]],
    device: torch.device,
    labels: dict[str, Label],
) -> list[Callable[[], Sequence[Scorer]]]:
    """Openers for `score_in_passes`, the named scorers' first; who is opened leaves a label."""
    named = [one for one in scorers if isinstance(one, str)]
    openers: list[Callable[[], Sequence[Scorer]]] = list(passes_of(named, assets, device)) if named else []
    if others := [one for one in scorers if isinstance(one, Scorer)]:
        openers.append(lambda: others)

    def noting(opener: Callable[[], Sequence[Scorer]]) -> Callable[[], Sequence[Scorer]]:
        def opened() -> Sequence[Scorer]:
            found = opener()
            labels.update((one.name, one.label) for one in found)
            return found

        return opened

    return [noting(opener) for opener in openers]


def _rows(plan: Plan, folder: Path) -> Rows:
    """The pictures in the order of the plan, whether they are drawn yet or not."""

    def read() -> Iterator[Row]:
        return (Row(one.image, one.image, one.prompt, folder / one.image) for one in plan.pictures())

    return Rows(str(folder), read, has_prompts=True)
