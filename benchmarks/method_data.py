"""What the comparison of the methods learns from and is measured on, made once for each tiny model.

The model draws pictures for prompts of the training half, the oracle labels them in [0, 1]. All methods read these
groups: RankDPO all four pictures, SePPO and plain fine-tuning the best, the others the best and the worst. Captions of
its own for each picture (DCPO, TPO) come from the oracle too: what it sees, said in a sentence of the world; see
`caption_of`. The base model's verdicts on the evaluation's prompts and its errors on pairs that nobody learns from are
kept beside them.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from palate.datasets.group import Group
from palate.datasets.parquet import read_groups, write_groups
from palate.datasets.shapes.oracle import judge, read
from palate.datasets.shapes.prompts import CATEGORIES, COUNTS, Prompt, all_prompts, draw_prompts, is_held_out
from palate.datasets.shapes.raters import oracle_rater
from palate.errors import UserError
from palate.t2i.build.captions.answers import Answer
from palate.t2i.build.captions.dual import draft, finish
from palate.t2i.build.captions.rules import RulePerturber
from palate.t2i.build.samples import sample_groups
from palate.t2i.methods import RankDPO
from palate.t2i.models.checkpoint import find_checkpoint
from palate.t2i.models.model import TextToImageModel
from palate.t2i.models.sampling import Sampling, sampling_for
from palate.t2i.prepare import prepare
from palate.t2i.recipe import DataConfig
from palate.training.disk import write_json

FORMS = ("groups", "winners", "stronger", "stronger_winners", "hybrid", "perturb", "tpo", "prompts")
"""`groups`: four pictures and their labels. `winners`: the best of each. `stronger`: the best of four that are drawn
with guidance and in more steps, against the worst of `groups`; `stronger_winners`: the former alone. `hybrid`,
`perturb`: with DCPO's captions of that name. `tpo`: the best picture twice, with a caption that fits and one that does
not. `prompts`: no picture at all, see `prompts_file`."""

STRONGER = {"steps": 20, "guidance": 4.0}
"""How the tiny models draw the stronger pictures."""

FIRST_SEED = {"report": 1_000_000, "search": 2_000_000, "errors": 3_000_000, "stronger": 4_000_000}
"""By what is drawn; `groups` start at `Size.seed`. No two pictures have one seed."""


@dataclass(frozen=True)
class Size:
    """How much is drawn."""

    groups: int = 600
    per_prompt: int = 4
    prompts: int = 240
    images: int = 3
    error_groups: int = 120
    steps: int = 8
    guidance: float = 1.0
    batch_size: int = 60
    seed: int = 0


def sampling_of(model: TextToImageModel, size: Size) -> Sampling:
    """How all pictures are drawn."""
    return sampling_for(model, size.steps, size.guidance, batch_size=size.batch_size)


def evaluation_prompts(part: str, count: int) -> list[Prompt]:
    """`count` prompts of the held-out half, the categories in turn; no sentence is in both parts, search and report."""
    wanted = part == "search"
    rng = np.random.default_rng(7)
    queues = []
    for category in CATEGORIES:
        mine = [p for p in all_prompts() if p.category == category and is_held_out(p.text)]
        mine = [p for p in mine if (hashlib.blake2b(p.text.encode(), digest_size=2).digest()[1] % 4 == 0) == wanted]
        queues.append([mine[i] for i in rng.permutation(len(mine))])
    return [queues[i % len(queues)][i // len(queues) % len(queues[i % len(queues)])] for i in range(count)]


def evaluation_seeds(part: str, size: Size) -> np.ndarray:
    """Seeds `[prompts, images]`, far from those of the training pictures."""
    return FIRST_SEED[part] + np.arange(size.prompts * size.images).reshape(size.prompts, size.images)


def make_data(name: str, folder: Path, size: Size) -> None:
    """Write every form of the data of the tiny model `name` into `folder`, and its encoded latents and prompts.

    What is there stays.

    Raises UserError: the folder's data are of another size.
    """
    require_size(folder, size)
    model = TextToImageModel(find_checkpoint(name))
    sampling = sampling_of(model, size)
    _write(folder / "groups", lambda: _drawn(model, size.groups, size, sampling, held_out=False))
    _write(folder / "errors", lambda: _drawn(model, size.error_groups, size, sampling, held_out=True))
    groups = [group.sorted_by_label() for group in read_groups(folder / "groups") if not group.is_tie]
    _write(folder / "winners", lambda: map(_winner, groups))
    _write(folder / "stronger", lambda: _against_stronger(model, groups, size))
    _write(folder / "stronger_winners", lambda: map(_winner, read_groups(folder / "stronger")))
    if not prompts_file(folder).exists():
        prompts_file(folder).write_text("".join(f"{group.prompt}\n" for group in read_groups(folder / "groups")))
    for mode in ("hybrid", "perturb", "tpo"):
        _write(folder / mode, lambda mode=mode: _captioned(groups, mode))
    for form in ("groups", "stronger", "hybrid", "perturb", "tpo"):
        _write(folder / f"{form}-shuffled", lambda form=form: _shuffled(list(read_groups(folder / form))))
    # Once for all runs, which only read.
    every = RankDPO().build(1)
    for form in sorted(file.parent.name for file in folder.glob("*/whole")):
        method = replace(every, fewest=1)
        prepare(model, DataConfig(path=str(folder / form), cache=str(folder / "cache")), method, 0, lambda line: None)


def prompts_file(folder: Path) -> Path:
    """The prompts of all groups, one a line, in a folder of data."""
    return folder / "prompts.txt"


def require_size(folder: Path, size: Size) -> None:
    """Claim an empty or new folder for data of `size`.

    Raises UserError: its data are of another size, or say nothing of theirs.
    """
    file = folder / "size.json"
    if not file.exists() and not (folder / "groups").exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(file, asdict(size))
    if read_json(file) != asdict(size):
        raise UserError(f"the data in {folder} are of another size; name another folder with --folder")


def _write(folder: Path, groups: Any) -> None:
    if not (folder / "whole").exists():
        write_groups(groups(), folder)
        (folder / "whole").touch()


def _drawn(model: TextToImageModel, count: int, size: Size, sampling: Sampling, held_out: bool) -> Iterator[Group]:
    if held_out:
        prompts, seed = [p.text for p in evaluation_prompts("search", count)], FIRST_SEED["errors"]
    else:
        prompts, seed = [p.text for p in draw_prompts(count, size.seed, held_out=False)], size.seed
    return sample_groups(model, prompts, size.per_prompt, seed, sampling, oracle_rater, source=model.checkpoint.path)


def _against_stronger(model: TextToImageModel, groups: Sequence[Group], size: Size) -> Iterator[Group]:
    """The best of the prompt's stronger pictures against the worst of `groups`, which are sorted."""
    sampling = sampling_for(model, **STRONGER, batch_size=size.batch_size)
    prompts = [group.prompt for group in groups]
    first, source = FIRST_SEED["stronger"], model.checkpoint.path
    drawn = sample_groups(model, prompts, size.per_prompt, first, sampling, oracle_rater, source)
    for weak, strong in zip(groups, map(Group.sorted_by_label, drawn), strict=True):
        if strong.labels[0] > weak.labels[-1]:
            pair = strong.candidates[0], weak.candidates[-1]
            yield replace(weak, candidates=pair, labels=(strong.labels[0], weak.labels[-1]), model=None, seed=None)


def _winner(group: Group) -> Group:
    """The best picture alone; `group` is sorted."""
    return Group(group.key, group.prompt, group.candidates[:1], group.labels[:1], seed=(group.seed or (None,))[:1])


def _shuffled(groups: Sequence[Group]) -> Iterator[Group]:
    """The same groups, in half of which every preference is turned round: labels that say nothing."""
    turned = set(np.random.default_rng(0).permutation(len(groups))[: len(groups) // 2].tolist())
    for number, group in enumerate(groups):
        if number in turned:
            low_and_high = min(group.labels) + max(group.labels)
            group = replace(group, labels=tuple(low_and_high - label for label in group.labels))
        yield group


def _captioned(groups: Sequence[Group], mode: str) -> Iterator[Group]:
    """DCPO's or TPO's captions, by palate's own builder, with the oracle for a captioner and rules for a perturber."""
    perturber = RulePerturber()

    def caption(group: Group, candidate: int) -> Answer:
        if mode == "perturb":
            return Answer(group.prompt)
        return Answer(caption_of(group.prompt, Image.open(io.BytesIO(group.candidates[candidate]))))

    for group in groups:
        pair = replace(
            group,
            candidates=(group.candidates[0], group.candidates[-1]),
            labels=(group.labels[0], group.labels[-1]),
            seed=group.seed and (group.seed[0], group.seed[-1]),
            model=None,
        )
        drafted = draft(pair, mode)
        assert not hasattr(drafted, "reason"), drafted  # no ties and no single candidates are here
        written = finish(drafted, caption, lambda text: Answer(perturber.perturb(text), "no word that can be changed"))
        if isinstance(written, Group):
            yield written


def caption_of(prompt: str, picture: Image.Image) -> str:
    """What a picture shows, as a captioner with the prompt for its context would say it.

    The prompt where it is true of the picture; else a sentence of the world about what the oracle sees, in the prompt's
    opening words. Where that is no sentence of the world (a blob of no known shape, three kinds of shape), the prompt.
    """
    if judge(prompt, picture).correct:
        return prompt
    opening = prompt.split(" a ")[0] if " a " in prompt else " ".join(prompt.split()[:3])
    seen = read(picture)
    shapes = [blob.shape for blob in seen]
    if not seen or None in shapes:
        return prompt
    if len(seen) > 1 and len(set(shapes)) == 1:
        word = {count: word for word, count in COUNTS.items()}.get(len(seen))
        said = word and f"{opening} {word} {shapes[0]}{'es' if str(shapes[0]).endswith('s') else 's'}"
    elif len(seen) <= 2:
        said = f"{opening} " + " and ".join(f"a {b.colour} {b.shape}" if b.colour else f"a {b.shape}" for b in seen)
    else:
        said = None
    return said if said and judge(said, picture).correct else prompt


def read_json(file: Path) -> dict[str, Any]:
    """A JSON file's values; an empty dict where there is none."""
    return json.loads(file.read_text()) if file.exists() else {}
