"""The last step of Syn-Pic: scored pictures become groups, all of one size, and a report tells what is left out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from ....datasets.ahead import default_workers, ordered_map
from ....datasets.digest import digest
from ....datasets.group import Group
from ....datasets.parquet import write_groups
from ....datasets.skips import SkipLog, Skipped
from ....errors import UserError
from ....rewards.labels.ensemble import Ensemble
from ....rewards.labels.label import SAME_PICTURE
from ....rewards.labels.scored_pictures import Candidate, ScoreTable, candidates_by_prompt, read_score_table
from ....rewards.scorer import Label
from ....rewards.scoring.rows import GENERATED, open_rows
from ....training.disk import write_json
from .drawing import is_flat
from .folder import differences, remove_parts, write_whole
from .plan import Plan

REPORT = "report.json"
"""In the pictures' folder: whether the groups are written, by whom they are labelled, and what is left out."""

ONE_COLOUR = "one colour"


@dataclass(frozen=True)
class LeftOut:
    """A picture that no group can hold; its whole group is left out, for all groups are of one size."""

    image: str
    prompt: str
    model: str
    seed: int
    reason: str

    def __str__(self) -> str:
        return f"{self.image} by {self.model}, seed {self.seed}, {self.prompt!r}: {self.reason}"


@dataclass(frozen=True)
class Labelled:
    """How many groups are written, how many of them are ties, and every picture for which one was left out.

    scorers  what decides each scorer's numbers, by name, with its fingerprint; empty in the first reports
    """

    groups: int
    ties: int
    left_out: tuple[LeftOut, ...]
    scorers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def read_report(folder: Path, out: Path, ensemble: Ensemble) -> Labelled | None:
    """What an earlier call ended with; None where the groups are not written yet.

    Raises:
        UserError: they are labelled by others, or there is something else in their place.
    """
    file = folder / REPORT
    report = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
    if report is None and out.is_dir() and any(out.iterdir()):
        raise UserError(f"{out} is not empty, and no Syn-Pic run wrote there; empty it, or name another --out")
    if report is None or not report["finished"] or not any(out.glob("*.parquet")):
        return None
    if report["rater"] != ensemble.rater:
        raise UserError(f"{out} is labelled by {report['rater']}; {_others(folder, ensemble.scorers)}")
    left_out = tuple(LeftOut(**one) for one in report["left_out"])
    return Labelled(report["groups"], report["ties"], left_out, report.get("scorers", {}))


def require_scorers(done: Labelled, labels: Sequence[Label], folder: Path, out: Path) -> None:
    """Raise UserError where a scorer, though of the same name, is not the one that labelled the groups."""
    for label in labels:
        before = done.scorers.get(label.name)
        if before is not None and before["fingerprint"] != label.fingerprint:
            first = next(differences(before, described(label), label.name))
            raise UserError(
                f"{out} is labelled by another {label.name}: {first}; {_others(folder, list(done.scorers))}"
            )


def described(label: Label) -> dict[str, Any]:
    """A scorer as the report has it; in JSON's own types, for it is compared with what was read."""
    return json.loads(json.dumps({**label.settings, "fingerprint": label.fingerprint}))


def write_whole_groups(
    plan: Plan,
    folder: Path,
    scores: Path,
    ensemble: Ensemble,
    labels: Sequence[Label],
    out: Path,
    advance: Callable[[str, int, int], None],
) -> Labelled:
    """Write a group for each prompt whose pictures are all there, sound and scored; then the report.

    Args:
        folder: of the pictures; all are drawn.
        scores: the table of their scores.
        labels: of the scorers.

    Raises:
        UserError: no group is whole; then nothing is written.
    """
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in plan.rows())
    write_whole(folder / GENERATED, "".join(lines).encode())
    remove_parts(folder)
    table = read_score_table(scores, ensemble.scorers)
    faults, ties = SkipLog(keep=plan.size * len(plan.prompts)), 0

    def groups() -> Iterator[Group]:
        nonlocal ties
        items = candidates_by_prompt(folder, open_rows(folder), table, faults)
        built = ordered_map(lambda item: _build(*item, plan, table, ensemble), items, default_workers())
        for done, (_, found) in enumerate(built, 1):
            if isinstance(found, Group):
                ties += found.is_tie
                yield found
            else:
                for fault in found:
                    faults.add(fault.key, fault.reason, fault.detail)
            advance("labelling", done, len(plan.prompts))

    stream = groups()
    first = next(stream, None)  # before the folder is touched
    if first is None:
        raise UserError(f"no group is whole: {faults.summary()}; the first is {_left_out(plan, faults)[0]}")
    mode: Literal["new", "overwrite"] = "overwrite" if (folder / REPORT).exists() else "new"
    write_json(folder / REPORT, {"finished": False, "rater": ensemble.rater})
    written = write_groups(chain([first], stream), out, mode=mode)
    scorers = {label.name: described(label) for label in labels}
    done = Labelled(written.groups, ties, _left_out(plan, faults), scorers)
    write_json(folder / REPORT, {"finished": True, "rater": ensemble.rater, **asdict(done)})
    return done


def _others(folder: Path, names: Sequence[str]) -> str:
    return (
        f"others can label the same pictures: palate data label {folder} --with {','.join(names)} --out FOLDER "
        "(with their --weights)"
    )


def _build(
    prompt: str, candidates: Sequence[Candidate], plan: Plan, table: ScoreTable, ensemble: Ensemble
) -> Group | list[Skipped]:
    """The group, or what is wrong with its pictures beside those that lack a score. In a worker's thread."""
    kept: dict[str, bytes] = {}
    faults: list[Skipped] = []
    for candidate in candidates:
        sha256 = table.digests[candidate.place]
        data = candidate.read(sha256)
        if isinstance(data, Skipped):
            faults.append(data)
        elif is_flat(data):
            faults.append(Skipped(candidate.name, ONE_COLOUR))
        elif sha256 in kept:
            faults.append(Skipped(candidate.name, SAME_PICTURE))
        else:
            kept[sha256] = data
    if len(kept) < plan.size:
        return faults
    scores = table.values[[candidate.place for candidate in candidates]]
    drawn = [plan.find(candidate.row.image) for candidate in candidates]
    return Group(
        key=f"synpic-{digest(prompt)[:16]}",
        prompt=prompt,
        candidates=tuple(kept.values()),
        labels=tuple(ensemble.labels(scores).tolist()),
        aspects={name: tuple(scores[:, column].tolist()) for column, name in enumerate(table.names)},
        source="syn-pic",
        model=tuple(plan.generators[one.generator].generator.origin for one in drawn),
        seed=tuple(one.seed for one in drawn),
        rater=ensemble.rater,
    )


def _left_out(plan: Plan, faults: SkipLog) -> tuple[LeftOut, ...]:
    found = []
    for fault in sorted(faults.examples, key=lambda one: one.key):
        picture = plan.find(fault.key)
        model = plan.generators[picture.generator].generator.called
        reason = f"{fault.reason} ({fault.detail})" if fault.detail else fault.reason
        found.append(LeftOut(picture.image, picture.prompt, model, picture.seed, reason))
    return tuple(found)
