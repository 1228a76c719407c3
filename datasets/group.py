"""A group: one prompt, k candidates and how much each of them is preferred."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Group:
    """One prompt, k candidates, their labels.

    k = 2 is a pair, k > 2 a ranking, k = 1 an unpaired sample. A vote, a score and a rank are all labels here: higher
    is preferred, equal is a tie, and only their order and differences within the group carry meaning.

    key         stable and unique within a set; names the group in every report
    candidates  encoded media, one `bytes` each (a PNG or JPEG file's content; UTF-8 for text)
    labels      one finite number per candidate
    captions    one prompt per candidate, where candidates are described separately (DCPO, TPO)
    aspects     further labels by name, one number per candidate; NaN says "not rated"
    model, seed per candidate: what generated it; None where unknown
    rater       who gave the labels
    """

    key: str
    prompt: str
    candidates: tuple[bytes, ...]
    labels: tuple[float, ...]
    captions: tuple[str, ...] | None = None
    aspects: Mapping[str, tuple[float, ...]] | None = field(default=None, hash=False)
    source: str | None = None
    model: tuple[str | None, ...] | None = None
    seed: tuple[int | None, ...] | None = None
    rater: str | None = None

    def __post_init__(self) -> None:
        """Turn sequences into tuples and check them. Raises ValueError with the group's key and the fault."""
        set_field = object.__setattr__  # the dataclass is frozen; this is its constructor's last step
        for name in ("candidates", "captions", "model", "seed"):
            value = getattr(self, name)
            if value is not None:
                set_field(self, name, tuple(value))
        set_field(self, "labels", tuple(float(label) for label in self.labels))
        if self.aspects is not None:
            aspects = {name: tuple(float(value) for value in values) for name, values in self.aspects.items()}
            set_field(self, "aspects", aspects or None)
        _check(self)

    @property
    def size(self) -> int:
        """k, the number of candidates."""
        return len(self.candidates)

    @property
    def is_tie(self) -> bool:
        """Whether nothing in the group is preferred to anything else; a single candidate is no tie."""
        return self.size > 1 and min(self.labels) == max(self.labels)

    def sorted_by_label(self) -> Group:
        """The same group, most preferred candidate first; tied candidates keep their order."""
        order = sorted(range(self.size), key=lambda index: -self.labels[index])
        return self if order == list(range(self.size)) else self.take(order)

    def take(self, places: Sequence[int]) -> Group:
        """The same group with the candidates at `places` alone, in that order."""

        def pick(values: tuple | None) -> tuple | None:
            return None if values is None else tuple(values[place] for place in places)

        aspects = None if self.aspects is None else {name: pick(values) for name, values in self.aspects.items()}
        return replace(
            self,
            candidates=pick(self.candidates),
            labels=pick(self.labels),
            captions=pick(self.captions),
            aspects=aspects,
            model=pick(self.model),
            seed=pick(self.seed),
        )


def _check(group: Group) -> None:
    if not group.key:
        raise ValueError("a group needs a key that is not empty")
    if not isinstance(group.prompt, str):
        raise ValueError("no prompt" if group.prompt is None else f"the prompt is a {type(group.prompt).__name__}")
    if group.captions and not all(isinstance(caption, str) and caption.strip() for caption in group.captions):
        raise ValueError("a caption is missing or no text")
    others = {"key": group.key, "source": group.source, "rater": group.rater}
    others |= {f"model of candidate {number}": model for number, model in enumerate(group.model or ())}
    for name, value in others.items():
        if value is not None and not isinstance(value, str):
            raise ValueError(f"the {name} is a {type(value).__name__} in place of a text")
    k = group.size
    if k == 0:
        raise ValueError(f"group {group.key!r} has no candidates")
    per_candidate = {"labels": group.labels, "captions": group.captions, "model": group.model, "seed": group.seed}
    per_candidate |= {f"aspect {name!r}": values for name, values in (group.aspects or {}).items()}
    for name, values in per_candidate.items():
        if values is not None and len(values) != k:
            raise ValueError(f"group {group.key!r} has {k} candidates but {len(values)} {name}")
    if not all(math.isfinite(label) for label in group.labels):
        raise ValueError(f"group {group.key!r} has a label that is not finite: {list(group.labels)}")
    if any(math.isinf(value) for values in (group.aspects or {}).values() for value in values):
        raise ValueError(f"group {group.key!r} has an aspect that is infinite")
    if not all(isinstance(candidate, bytes) for candidate in group.candidates):
        raise ValueError(f"group {group.key!r}: candidates must be bytes (a file's content)")
    if any(seed is not None and not -(2**63) <= seed < 2**63 for seed in group.seed or ()):
        raise ValueError(f"group {group.key!r} has a seed that does not fit in 64 bits: {list(group.seed or ())}")
    # A lone surrogate (half an emoji, seen in scraped JSON) is a str that no file can hold.
    texts = (group.key, group.prompt, group.source, group.rater, *(group.captions or ()), *(group.model or ()))
    for text in (*texts, *(group.aspects or ())):
        if text is not None and not _is_encodable(text):
            raise ValueError(f"group {group.key!r} has text that is not valid Unicode: {text!r}")


def _is_encodable(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
