"""Look through a set of groups once and count what a trainer should know before it costs a night."""

from __future__ import annotations

import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import pairwise

from .ahead import default_workers, ordered_map
from .group import Group
from .images import UnreadableImageError, image_size, inspect
from .report import Examples, Report, spread
from .skips import UNREADABLE, SkipLog, Skipped

_SIDE_STEPS = (64, 256, 512, 768, 1024)
_KEEP = 100


def check_groups(
    groups: Iterable[Group],
    other_splits: Mapping[str, Iterable[str]] | None = None,
    *,
    log: SkipLog | None = None,
    decode: bool = True,
    workers: int | None = None,
) -> Report:
    """Read `groups` once and report.

    other_splits  name -> the prompts of another split, to be compared with this one's
    log           the reader's; what it skipped becomes part of the report
    decode        read every picture to its end, which finds truncated ones; else only the headers

    Holds a few groups and 8-byte digests: about 400 bytes a pair, so 400 MB for a million of them.
    """
    tally = _Tally()
    look = _look if decode else _glance
    for group, seen in ordered_map(look, groups, default_workers() if workers is None else workers):
        tally.add(group, seen)
    report = tally.finish()
    for name, prompts in (other_splits or {}).items():
        report.leaks[name] = _shared(tally.prompts, prompts)
    if log is not None:
        report.skipped, report.skipped_examples = dict(log.counts), list(log.examples)
    return report


def normalise_prompt(prompt: str) -> str:
    """The form in which two prompts count as the same: no case, punctuation, or difference in spacing."""
    text = unicodedata.normalize("NFKC", prompt).casefold()
    return " ".join(text.translate(_NO_PUNCTUATION).split())


_NO_PUNCTUATION = str.maketrans(string.punctuation, " " * len(string.punctuation))


@dataclass(frozen=True)
class _Seen:
    """What a group's bytes tell: one size or fault, and one digest, per candidate."""

    sizes: tuple[tuple[int, int] | None, ...]
    faults: tuple[str | None, ...]
    digests: tuple[int, ...]


def _look(group: Group) -> _Seen:
    return _seen(group, inspect)


def _glance(group: Group) -> _Seen:
    return _seen(group, image_size)


def _seen(group: Group, measure: Callable[[bytes], tuple[int, int]]) -> _Seen:
    sizes: list[tuple[int, int] | None] = []
    faults: list[str | None] = []
    for data in group.candidates:
        try:
            sizes.append(measure(data))
            faults.append(None)
        except UnreadableImageError as error:
            sizes.append(None)
            faults.append(str(error))
    return _Seen(tuple(sizes), tuple(faults), tuple(map(_digest, group.candidates)))


def _digest(data: bytes) -> int:
    """64 bits: among 2 million pictures a chance collision has probability 1e-7."""
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")


@dataclass
class _Tally:
    report: Report = field(default_factory=Report)
    widths: Counter[int] = field(default_factory=Counter)
    heights: Counter[int] = field(default_factory=Counter)
    sides: Counter[str] = field(default_factory=Counter)
    sizes: Counter[int] = field(default_factory=Counter)
    words: Counter[int] = field(default_factory=Counter)
    wins: Counter[int] = field(default_factory=Counter)
    keys: set[int] = field(default_factory=set)
    prompts: set[int] = field(default_factory=set)
    pictures: set[int] = field(default_factory=set)
    winners: dict[int, int | None] = field(default_factory=dict)  # digest of a group -> digest of its winner

    def add(self, group: Group, seen: _Seen) -> None:
        report = self.report
        report.groups += 1
        report.candidates += group.size
        self.sizes[group.size] += 1
        self._add_pictures(group, seen)
        self._add_prompt(group)
        self._add_labels(group, seen)
        key = _digest(group.key.encode())
        if key in self.keys:
            report.repeated_keys.add(group.key)
        self.keys.add(key)

    def _add_pictures(self, group: Group, seen: _Seen) -> None:
        report = self.report
        for index, (size, fault) in enumerate(zip(seen.sizes, seen.faults, strict=True)):
            if size is not None:
                self.widths[size[0]] += 1
                self.heights[size[1]] += 1
                self.sides[_side_class(min(size))] += 1
            elif len(report.unreadable) < _KEEP:
                report.unreadable.append(Skipped(group.key, UNREADABLE, f"candidate {index}: {fault}"))
        report.unreadable_groups += any(seen.faults)
        report.mixed_sizes += len({size for size in seen.sizes if size}) > 1
        captions = group.captions or (group.prompt,) * group.size  # one picture with two captions says something
        if len(set(zip(seen.digests, captions, strict=True))) < group.size:
            report.same_picture.add(group.key)
        report.repeated_pictures += len(self.pictures.intersection(seen.digests))
        self.pictures.update(seen.digests)

    def _add_prompt(self, group: Group) -> None:
        prompt = normalise_prompt(group.prompt)
        if not group.prompt.strip():
            self.report.empty_prompts.add(group.key)
        else:
            self.prompts.add(_digest(prompt.encode()))
        self.words[len(group.prompt.split())] += 1

    def _add_labels(self, group: Group, seen: _Seen) -> None:
        report = self.report
        best = max(group.labels)
        winners = [index for index, label in enumerate(group.labels) if label == best]
        if group.is_tie:
            report.ties += 1
        elif group.size > 1:
            report.preferences += not any(seen.faults)
            if len(winners) == 1:
                self.wins[winners[0]] += 1
        winner = seen.digests[winners[0]] if len(winners) == 1 else None
        group_digest = _digest(repr((group.prompt, sorted(seen.digests))).encode())
        if group_digest in self.winners:
            report.repeated_groups.add(group.key)
            if self.winners[group_digest] != winner:
                report.contradictions.add(group.key)
        else:
            self.winners[group_digest] = winner

    def finish(self) -> Report:
        report = self.report
        report.by_size = dict(sorted(self.sizes.items()))
        report.wins_by_position = dict(sorted(self.wins.items()))
        report.widths, report.heights = spread(self.widths), spread(self.heights)
        report.shorter_sides = {name: self.sides[name] for name in _side_classes() if self.sides[name]}
        report.prompts, report.prompt_words = len(self.prompts), spread(self.words)
        return report


def _side_class(side: int) -> str:
    """The class of a shorter side in pixels: the training sizes in use are its steps."""
    return _side_classes()[sum(side >= step for step in _SIDE_STEPS)]


def _side_classes() -> list[str]:
    steps = _SIDE_STEPS
    between = [f"{low}-{high - 1}" for low, high in pairwise(steps)]
    return [f"below {steps[0]}", *between, f"{steps[-1]} and more"]


def _shared(prompts: set[int], others: Iterable[str]) -> Examples:
    """The distinct prompts of `others` that are in `prompts`."""
    shared, found = Examples(), set()
    for prompt in others:
        digest = _digest(normalise_prompt(prompt).encode())
        if prompt.strip() and digest in prompts and digest not in found:
            found.add(digest)
            shared.add(prompt)
    return shared
