"""A caption that no longer fits its picture, by rules: no model, and always the same for a seed and a text.

Words are replaced by others of their class that the text does not have (red by green, two by four, above by behind),
and two nouns may exchange their attributes: no two such changes can undo each other. Where a text has too few words
that are known, others change places across a preposition, and last of all whole phrases are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from itertools import accumulate, combinations, pairwise
from math import ceil
from typing import Any

import torch

from ....datasets.shapes.prompts import parse
from ....diffusion.draws import Stream, generator_for
from .lexicon import Lexicon, Sense, english, shapes_world
from .strength import share_of
from .word_edits import Edit, Word, apply_edits, cased, words_of

_DIRECTED = frozenset(
    ["in", "at", "to", "from", "by", "for", "into", "onto", "through", "than", "who", "which", "where", "of"]
)
"""Words on whose two sides things cannot change places without a change of what is said."""
_OPENERS = (_DIRECTED - {"of", "than"}) | {"and", "or", "but", "with", "as", "while", "during"}
"""Words that open a phrase which can be left out."""
_NUMBERED = re.compile(r"\d+ +[^\W\d_]{3}")  # "2 dogs"; not "16:9", "4k" or "35 mm"
_PAIRS = 5_000  # of unknown words that are looked at: those of the first hundred


@dataclass(frozen=True)
class RulePerturber:
    """Changes a share of the words that say something; see the module.

    A sentence of the shapes world becomes another of its sentences, which the oracle refuses for every picture that
    shows the first.

    strength  a name in `STRENGTHS`; a stronger one makes all changes of a weaker one, and more
    seed      another gives other words
    """

    strength: str = "medium"
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises UserError: there is no such strength."""
        share_of(self.strength)

    def settings(self) -> dict[str, Any]:
        """What decides the texts: JSON values."""
        return {"model": "rules", "strength": self.strength, "share": share_of(self.strength), "seed": self.seed}

    def perturb(self, text: str) -> str | None:
        """The changed text; None where it has no word that the rules can change, as in most other languages."""
        draft = _Draft(text, words_of(text), _lexicon(text), _numbers(text, self.seed))
        needed, changed, edits = ceil(share_of(self.strength) * sum(word.counts for word in draft.words)), 0, []
        for change in draft.changes():
            if edits and changed >= needed:
                break
            edits += change.edits
            changed += change.words
        return apply_edits(text, edits) if edits else None


@dataclass(frozen=True)
class _Change:
    """What is done at once, and how many words that say something it touches."""

    edits: tuple[Edit, ...]
    words: int


@dataclass(frozen=True)
class _Slot:
    """Words `first` to `last` (inclusive) that can be changed; `sense` is None where the lexicon has none."""

    first: int
    last: int
    sense: Sense | None = None


@dataclass
class _Draft:
    """One text's possible changes, in an order that no strength decides; `touched`: words that have been changed."""

    text: str
    words: list[Word]
    lexicon: Lexicon
    numbers: torch.Generator
    touched: set[int] = field(default_factory=set)

    def changes(self) -> Iterator[_Change]:
        """First what is shown, then unknown words, then how the picture is made, and last what is left out."""
        late = {slot for slot, sense in self.known.items() if sense.kind in self.lexicon.late}
        yield from self._replaced([slot for slot in self.known if slot not in late])
        yield from self._unknown()
        yield from self._replaced(sorted(late, key=lambda slot: slot.first))
        yield from self._left_out()

    @cached_property
    def known(self) -> dict[_Slot, Sense]:
        """What the lexicon has, the longest phrase first, no word twice."""
        found, place = {}, 0
        while place < len(self.words):
            slots = (self._at(place, length) for length in range(self.lexicon.longest, 0, -1))
            slot = next((slot for slot in slots if slot and slot.sense), None)
            if slot and slot.sense:
                found[slot] = slot.sense
            place = slot.last + 1 if slot else place + 1
        return found

    def _at(self, place: int, length: int) -> _Slot | None:
        words = self.words[place : place + length]
        sense = self.lexicon.senses.get(tuple(word.lower for word in words))
        if sense is None or any(not self._gap(i).isspace() for i in range(place + 1, place + len(words))):
            return None
        numbered = _NUMBERED.match(self.text, words[0].start) and (self._gap(place) + " ").isspace()
        return _Slot(place, place + len(words) - 1, sense) if numbered or not words[0].text.isdigit() else None

    def _replaced(self, slots: Sequence[_Slot]) -> Iterator[_Change]:
        """Each by a meaning that the text does not have; half of the attributes that can be exchanged are."""
        present = {(sense.kind, sense.meaning) for sense in self.known.values()}
        used, partners = set[tuple[str, int]](), self._partners()
        for slot in self._shuffled(slots):
            draw = self._draw()
            if slot.first in self.touched:
                continue
            partner = partners.get(slot)
            if partner and draw % 2 and partner.first not in self.touched:
                yield self._exchange(slot, partner)
                continue
            sense = self.known[slot]
            others = [(sense.kind, meaning) for meaning in range(len(self.lexicon.classes[sense.kind]))]
            absent = [other for other in others if other not in present]
            fresh = [other for other in absent if other not in used] or absent
            if fresh:  # else to replace both "young" and "old" might say the same again
                chosen = fresh[draw // 2 % len(fresh)]
                used.add(chosen)
                yield self._change((slot, self.lexicon.write(sense, chosen[1])))

    def _partners(self) -> dict[_Slot, _Slot]:
        """For an attribute, another of its class with another noun; exchanged, the nouns have each other's."""
        found: dict[_Slot, _Slot] = {}
        borne = {slot: noun for slot in self.known if (noun := self._noun(slot)) is not None}
        for one, other in combinations(borne, 2):
            senses = self.known[one], self.known[other]
            if senses[0].kind == senses[1].kind and senses[0] != senses[1] and borne[one] != borne[other]:
                found.setdefault(one, other)
                found.setdefault(other, one)
        return found

    def _noun(self, slot: _Slot) -> str | None:
        """The word right after an attribute, which has it; None where none follows, or the slot is no attribute."""
        follows = slot.last + 1
        if self.known[slot].kind not in self.lexicon.attributes or follows == len(self.words):
            return None
        word = self.words[follows]
        return word.lower if word.counts and self._gap(follows).isspace() else None

    def _unknown(self) -> Iterator[_Change]:
        """Two unknown words on the sides of a word that has a direction change places: a quokka in an erg."""
        taken = {place for slot in self.known for place in range(slot.first, slot.last + 1)}
        unknown = [place for place, word in enumerate(self.words) if word.counts and place not in taken]
        directed = [0, *accumulate(word.lower in _DIRECTED for word in self.words)]
        # With "above" between them replaced by "below", an exchange would say the same again.
        relation = {slot.first for slot, sense in self.known.items() if sense.kind in ("place", "side")}
        related = [0, *accumulate(place in relation for place in range(len(self.words)))]
        for one, other in self._shuffled(list(combinations(unknown, 2))[:_PAIRS]):
            crosses = directed[other] > directed[one] and related[other] == related[one]
            if crosses and not self.touched & {one, other} and self.words[one].lower != self.words[other].lower:
                yield self._exchange(_Slot(one, one), _Slot(other, other))

    def _left_out(self) -> Iterator[_Change]:
        """Phrases that nothing has changed, with the word or the comma that opens them; the last first."""
        starts = [place for place, word in enumerate(self.words) if word.lower in _OPENERS or self._breaks(place)]
        starts = [place for place in starts if place > 0]
        for first, end in reversed(list(pairwise([*starts, len(self.words)]))):
            count = sum(word.counts for word in self.words[first:end])
            if count and not self.touched & set(range(first, end)):
                yield _Change((Edit(self.words[first - 1].end, self.words[end - 1].end, ""),), count)

    def _breaks(self, place: int) -> bool:
        return any(mark in self._gap(place) for mark in ",;:.|\n")

    def _gap(self, place: int) -> str:
        """What stands before a word."""
        return self.text[self.words[place - 1].end if place else 0 : self.words[place].start]

    def _exchange(self, one: _Slot, other: _Slot) -> _Change:
        return self._change((one, self._written(other)), (other, self._written(one)))

    def _written(self, slot: _Slot) -> str:
        return self.text[self.words[slot.first].start : self.words[slot.last].end]

    def _change(self, *pairs: tuple[_Slot, str]) -> _Change:
        edits, count = [], 0
        for slot, text in pairs:
            places = range(slot.first, slot.last + 1)
            self.touched.update(places)
            count += max(1, sum(self.words[place].counts for place in places))
            start, end = self.words[slot.first].start, self.words[slot.last].end
            edits.append(Edit(start, end, cased(text.lower(), self.text[start:end])))
        return _Change(tuple(edits), count)

    def _draw(self) -> int:
        return int(torch.randint(1 << 30, (), generator=self.numbers))

    def _shuffled(self, items: Sequence) -> list:
        return [items[i] for i in torch.randperm(len(items), generator=self.numbers).tolist()]


def _lexicon(text: str) -> Lexicon:
    try:
        parse(text)
    except ValueError:
        return english()
    return shapes_world()


def _numbers(text: str, seed: int) -> torch.Generator:
    place = int.from_bytes(blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "little")
    return generator_for(seed, Stream.SAMPLING, place)
