"""What was left out while reading, and why: nothing is ever dropped silently."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Skipped:
    """One group that was left out."""

    key: str
    reason: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.key}: {self.reason}" + (f" ({self.detail})" if self.detail else "")


@dataclass
class SkipLog:
    """Counts by reason, and the first `keep` cases in full, so that a million skips take no memory."""

    keep: int = 100
    counts: Counter[str] = field(default_factory=Counter)
    examples: list[Skipped] = field(default_factory=list)

    def add(self, key: str, reason: str, detail: str = "") -> None:
        """Record that the group `key` was left out. `reason` is one of a few fixed phrases; `detail` is free."""
        self.counts[reason] += 1
        if len(self.examples) < self.keep:
            self.examples.append(Skipped(key, reason, detail))

    @property
    def total(self) -> int:
        """How many groups were left out."""
        return self.counts.total()

    def summary(self) -> str:
        """One line: `3 unreadable image, 1 no label`; empty when nothing was skipped."""
        return ", ".join(f"{count} {reason}" for reason, count in self.counts.most_common())


NO_LABEL = "no label"
BAD_ROW = "bad row"
MISSING_FILE = "missing file"
NO_PARTNER = "no partner"
NO_PROMPT = "no prompt"
UNREADABLE = "unreadable image"

# A row without a vote is part of the published sets; the others say that the copy in hand is damaged or incomplete.
EXPECTED_REASONS = frozenset({NO_LABEL})
