"""What logs tell of a block of rows: a line of a log, and which of several lines counts."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

_CHANGED = "the picture changed after it was scored; score again"


class Answer(NamedTuple):
    """What a scorer says of a row: a value, or the reason why there is none; neither where it was not asked.

    versions    of the libraries that computed the value, by `text_of`; "" where nobody knows
    """

    value: float | None = None
    reason: str | None = None
    versions: str = ""


@dataclass(frozen=True)
class Column:
    """One scorer's answers for a block: a number or None for each row, and by row why there is none.

    versions    by row, where they are known: of the libraries that computed its number, by `text_of`
    """

    settings: str
    values: tuple[float | None, ...]
    errors: Mapping[int, str]
    versions: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: str, answers: Sequence[Answer]) -> Column:
        """An answer for each row."""
        errors = {place: reason for place, (_, reason, _) in enumerate(answers) if reason is not None}
        known = {place: versions for place, (_, _, versions) in enumerate(answers) if versions}
        return cls(settings, tuple(answer.value for answer in answers), errors, known)

    def answer(self, place: int) -> Answer:
        """One row's."""
        return Answer(self.values[place], self.errors.get(place), self.versions.get(place, ""))


@dataclass(frozen=True)
class Record:
    """What is known of one block of rows.

    plan     digest of the whole list of rows and the block's size; blocks of two plans are not the same rows
    block    its number in the plan
    rows     key, image, prompt and sha256 of the image's bytes ("" where they cannot be read)
    columns  by scorer
    turn     how many records of the block came before, in all logs: the largest is the latest, in whichever file
    """

    plan: str
    block: int
    rows: tuple[Mapping[str, Any], ...]
    columns: Mapping[str, Column]
    turn: int = 0

    def to_line(self) -> bytes:
        """JSON with a newline at its end. Versions stand there once, and with a column only where its are others."""
        usual = next((text for column in self.columns.values() for text in column.versions.values()), "")
        scores: dict[str, dict[str, Any]] = {}
        for name, column in self.columns.items():
            errors = {str(place): reason for place, reason in column.errors.items()}
            scores[name] = {"settings": column.settings, "values": column.values, "errors": errors}
            if others := _unlike(column, usual):
                scores[name]["others"] = others
        content = {"plan": self.plan, "block": self.block, "turn": self.turn, "versions": json.loads(usual or "{}")}
        content |= {"rows": self.rows, "scores": scores}
        # ASCII only: a lone surrogate in a prompt is then no obstacle.
        return json.dumps(content, allow_nan=False).encode("ascii") + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Record | None:
        """None for a line that is not whole."""
        try:
            content = json.loads(line)
            # The first logs had no turns and no versions.
            usual = text_of(dict(content.get("versions", {})))
            columns = {
                name: Column(
                    column["settings"],
                    tuple(column["values"]),
                    {int(place): reason for place, reason in column["errors"].items()},
                    _by_place(column, usual),
                )
                for name, column in content["scores"].items()
            }
            turn = int(content.get("turn", 0))
            return cls(content["plan"], content["block"], tuple(content["rows"]), columns, turn)
        except (ValueError, KeyError, TypeError, AttributeError):
            return None


@dataclass(frozen=True)
class History:
    """The records of one block, oldest first, with the columns that count under the terms in force."""

    records: tuple[Record, ...]

    def find(self, scorer: str, place: int, sha256: str, prompt: str | None) -> Answer:
        """What was said of these bytes and this prompt at a place.

        A score counts more than a failure, and else the latest answer: the bytes may have been others in between.
        """
        reason = None
        for record in reversed(self.records):
            column = record.columns.get(scorer)
            if column is None or place >= len(record.rows) or _shown(record.rows[place]) != (sha256, prompt):
                continue
            answer = column.answer(place)
            if answer.value is not None:
                return answer
            reason = reason or answer.reason
        return Answer(reason=reason)

    def newest(self) -> Record | None:
        """The latest rows, whichever scorer saw them, with what each scorer said of just these; None without scores.

        Where a scorer saw other bytes only, that is the reason why there is no score.
        """
        scored = {name: column.settings for record in self.records for name, column in record.columns.items()}
        if not scored:
            return None
        last = self.records[-1]
        columns = {name: self._column(name, settings, last.rows) for name, settings in scored.items()}
        return replace(last, columns=columns)

    def versions(self) -> set[tuple[str, str]]:
        """Each scorer with versions that computed scores of the latest rows, as far as they are known."""
        rows = self.records[-1].rows if self.records else ()
        return {
            (name, versions)
            for record in self.records
            for name, column in record.columns.items()
            for place, versions in column.versions.items()
            if place < len(rows) and _shown(record.rows[place]) == _shown(rows[place])
        }

    def _column(self, scorer: str, settings: str, rows: Sequence[Mapping[str, Any]]) -> Column:
        found = [self.find(scorer, place, *_shown(row)) for place, row in enumerate(rows)]
        told = [answer if answer.value is not None or answer.reason else Answer(reason=_CHANGED) for answer in found]
        return Column.of(settings, told)


def text_of(versions: Mapping[str, str]) -> str:
    """Versions by library as one text, held in memory once; "" for none."""
    return sys.intern(json.dumps(dict(versions), sort_keys=True)) if versions else ""


def _shown(row: Mapping[str, Any]) -> tuple[str, str | None]:
    """What a score is of."""
    return row["sha256"], row["prompt"]


def _unlike(column: Column, usual: str) -> list[tuple[list[int], dict[str, str]]]:
    """The places of numbers that other versions computed, and these."""
    groups: dict[str, list[int]] = {}
    for place, value in enumerate(column.values):
        text = column.versions.get(place, "")
        if value is not None and text != usual:
            groups.setdefault(text, []).append(place)
    return [(places, json.loads(text or "{}")) for text, places in groups.items()]


def _by_place(column: Mapping[str, Any], usual: str) -> dict[int, str]:
    found = {place: usual for place, value in enumerate(column["values"]) if value is not None}
    for places, versions in column.get("others", ()):
        found |= dict.fromkeys(places, text_of(versions))
    return {place: text for place, text in found.items() if text}
