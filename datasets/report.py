"""What `palate data check` found, as plain values, and what it means, in plain words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from .counted import counted
from .skips import EXPECTED_REASONS, Skipped


@dataclass(frozen=True)
class Spread:
    """The smallest, the middle (lower median) and the largest of some whole numbers."""

    smallest: int
    median: int
    largest: int


@dataclass
class Examples:
    """A count, and the keys (or texts) of the first few."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, key: str, keep: int = 20) -> None:
        """Count one more."""
        self.count += 1
        if len(self.first) < keep:
            self.first.append(key)


@dataclass
class Report:
    """Counts over a set of groups. `groups` counts all that were read; `skipped` those that never became a group.

    by_size            k -> number of groups
    preferences        groups of k >= 2 with readable pictures that are not a tie: what a pairwise method learns from
    wins_by_position   position as read -> how often the best candidate, where a single one is best, stood there
    same_picture       groups that hold the same bytes twice, under the same caption
    repeated_pictures  candidates whose bytes were in an earlier group
    repeated_groups    groups with the prompt and the pictures of an earlier one
    contradictions     those of them whose winner differs from the earlier one's
    leaks              other split -> prompts that are in both, compared without case, spaces and punctuation
    """

    groups: int = 0
    candidates: int = 0
    by_size: dict[int, int] = field(default_factory=dict)
    ties: int = 0
    preferences: int = 0
    wins_by_position: dict[int, int] = field(default_factory=dict)
    widths: Spread | None = None
    heights: Spread | None = None
    shorter_sides: dict[str, int] = field(default_factory=dict)
    mixed_sizes: int = 0
    unreadable: list[Skipped] = field(default_factory=list)
    unreadable_groups: int = 0
    same_picture: Examples = field(default_factory=Examples)
    repeated_pictures: int = 0
    repeated_groups: Examples = field(default_factory=Examples)
    contradictions: Examples = field(default_factory=Examples)
    repeated_keys: Examples = field(default_factory=Examples)
    prompts: int = 0
    empty_prompts: Examples = field(default_factory=Examples)
    prompt_words: Spread | None = None
    leaks: dict[str, Examples] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    skipped_examples: list[Skipped] = field(default_factory=list)
    unfinished: bool = False

    @property
    def problems(self) -> list[str]:
        """What must be put right, or known, before training; one line each, empty when the set is sound."""
        if self.groups == 0:
            return ["no groups: the set is empty" + (f" ({_reasons(self.skipped)} skipped)" if self.skipped else "")]
        lines = []
        if self.unfinished:
            lines.append("the build of this set was stopped before its end: run it again with --resume")
        if self.unreadable_groups:
            lines.append(f"{counted(self.unreadable_groups, 'group')} with an unreadable picture: training skips them")
        broken = {reason: count for reason, count in self.skipped.items() if reason not in EXPECTED_REASONS}
        if broken:
            lines.append(f"skipped while reading: {_reasons(broken)}")
        if self.ties == self.groups:
            lines.append("only ties: no group prefers anything, so a pairwise method has nothing to learn from")
        elif self.preferences == 0 and max(self.by_size) > 1:
            lines.append("no readable group prefers anything: a pairwise method has nothing to learn from")
        for split, shared in self.leaks.items():
            if shared.count:
                lines.append(f"{counted(shared.count, 'prompt')} also in {split}: scores on it will look too good")
        if self.repeated_keys.count:
            lines.append(f"{counted(self.repeated_keys.count, 'key')} used twice: groups cannot be told apart by it")
        return lines

    @property
    def notes(self) -> list[str]:
        """What may be as it should be, and is worth knowing."""
        lines = []
        if self.same_picture.count:
            lines.append(
                f"{counted(self.same_picture.count, 'group')} with the same picture twice: nothing to learn there"
            )
        if self.repeated_groups.count:
            lines.append(
                f"{counted(self.repeated_groups.count, 'group')} with the prompt and pictures of an earlier one"
            )
        if self.contradictions.count:
            lines.append(f"{counted(self.contradictions.count, 'repeated group')} with another winner: raters disagree")
        if self.empty_prompts.count:
            lines.append(f"{counted(self.empty_prompts.count, 'group')} with an empty prompt")
        decided = sum(self.wins_by_position.values())
        first = self.wins_by_position.get(0, 0)
        if len(self.wins_by_position) == 1 and max(self.by_size) > 1:
            (place,) = self.wins_by_position
            lines.append(f"place {place} always wins: the set is stored sorted, or its labels are not votes")
        elif set(self.by_size) == {2} and abs(2 * first - decided) > 3 * decided**0.5:
            # 3 standard deviations of a fair coin: the place of a picture ought not to decide.
            lines.append(f"place 0 wins {first / decided:.1%} of the pairs: raters may favour a side")
        if self.skipped.keys() & EXPECTED_REASONS:
            lines.append(f"skipped: {_reasons({r: n for r, n in self.skipped.items() if r in EXPECTED_REASONS})}")
        return lines

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON values, with `problems` and `notes`."""
        return {**asdict(self), "problems": self.problems, "notes": self.notes}


def spread(counts: Counter[int]) -> Spread | None:
    """Smallest, lower median and largest of the values counted; None when there are none."""
    if not counts:
        return None
    half, seen = (counts.total() + 1) // 2, 0
    median = 0
    for value in sorted(counts):
        seen += counts[value]
        if seen >= half:
            median = value
            break
    return Spread(min(counts), median, max(counts))


def _reasons(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.items())
