"""A caption that no longer fits its picture, by rules: no model, and always the same for a seed and a text.

Words are replaced by others of their class that the text does not have (red by green, two by four, above by behind),
and two nouns may exchange their attributes: no two such changes can undo each other. Where a text has too few words
that are known, two unknown nouns change places across a preposition, and last of all whole phrases are left out, but
never alone: what remains would still be true of the picture. What tells how the picture is made (an oil painting,
anime, 4k) stays; see `kept_words`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import accumulate, combinations, pairwise
from math import ceil
from typing import Any

import torch

from ....datasets.shapes.prompts import parse
from ....diffusion.draws import Stream, generator_for
from .lexicon import Lexicon, english, shapes_world
from .sentence import Sentence, Slot
from .strength import STRENGTHS, share_of
from .word_edits import Edit, apply_edits, cased, words_of

_DIRECTED = frozenset(["in", "at", "to", "from", "for", "into", "onto", "through", "than", "who", "which", "where"])
"""Words on whose two sides things cannot change places without a change of what is said; by may mean beside."""
_OPENERS = (_DIRECTED - {"than"}) | {"by", "and", "or", "but", "with", "as", "while", "during"}
"""Words that open a phrase which can be left out."""
_PAIRS = 5_000  # of unknown words that are looked at: those of the first hundred


@dataclass(frozen=True)
class RulePerturber:
    """Changes a share of the words that say what is shown; see the module.

    A sentence of the shapes world becomes another of its sentences, which the oracle refuses for every picture that
    shows the first.

    strength  a name in `STRENGTHS`; a stronger one makes all changes of a weaker one, and strong always more than weak
              where a text can be changed twice
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
        """The changed text; None where the rules can put nothing in the place of a word, as in most other languages."""
        sentence = Sentence(text, words_of(text), _lexicon(text))
        counted = sum(word.counts for place, word in enumerate(sentence.words) if place not in sentence.kept)
        changes, reached = list[_Change](), [0]
        for change in _Draft(sentence, _numbers(text, self.seed)).changes():
            changes.append(change)
            reached.append(reached[-1] + change.words)
            if reached[-1] >= ceil(STRENGTHS["strong"] * counted):
                break
        made = changes[: _how_many(reached[1:], counted, self.strength)]
        return apply_edits(text, [edit for change in made for edit in change.edits]) if made else None


def _how_many(reached: Sequence[int], counted: int, strength: str) -> int:
    """How many changes a strength makes: its share of the words, and at least one change less than the next strength.

    Where there are two changes, medium makes as many as strong; where there is one, all make that.

    Args:
        reached: words that are changed after the first change, the second and so on, up to strong's share.
        counted: words in all.
    """

    def enough(share: float) -> int:
        return next((n for n, words in enumerate(reached, 1) if words >= ceil(share * counted)), len(reached))

    count = len(reached)
    fewer = {"weak": 2 if count > 2 else 1, "medium": 1 if count > 2 else 0}.get(strength, 0)
    return min(enough(share_of(strength)), max(1, count - fewer))


@dataclass(frozen=True)
class _Change:
    """What is done at once, and how many words that say something it touches."""

    edits: tuple[Edit, ...]
    words: int


@dataclass
class _Draft:
    """One text's possible changes, in an order that no strength decides; `touched`: words that have been changed."""

    sentence: Sentence
    numbers: torch.Generator
    touched: set[int] = field(default_factory=set)

    def changes(self) -> Iterator[_Change]:
        """First known words, then unknown ones, and last what is left out."""
        yield from self._replaced([slot for slot in self.sentence.known if not self.sentence.is_bound(slot)])
        yield from self._unknown()
        if self.touched:
            yield from self._left_out()

    def _replaced(self, slots: Sequence[Slot]) -> Iterator[_Change]:
        """Each by a meaning that the text does not have; half of the attributes that can be exchanged are."""
        present = {(sense.kind, sense.meaning) for sense in self.sentence.known.values()}
        used, partners = set[tuple[str, int]](), self._partners()
        for slot in self._shuffled(slots):
            draw = self._draw()
            if slot.first in self.touched:
                continue
            partner = partners.get(slot)
            if partner and draw % 2 and partner.first not in self.touched:
                yield self._exchange(slot, partner)
                continue
            sense = self.sentence.known[slot]
            others = [(sense.kind, meaning) for meaning in range(len(self.sentence.lexicon.classes[sense.kind]))]
            absent = [other for other in others if other not in present]
            fresh = [other for other in absent if other not in used] or absent
            if fresh:  # else to replace both "young" and "old" might say the same again
                chosen = fresh[draw // 2 % len(fresh)]
                used.add(chosen)
                yield self._change((slot, self.sentence.lexicon.write(sense, chosen[1])))

    def _partners(self) -> dict[Slot, Slot]:
        """For an attribute, another of its class with another noun; exchanged, the nouns have each other's."""
        found: dict[Slot, Slot] = {}
        borne = {slot: nouns for slot in self.sentence.known if (nouns := self.sentence.nouns_of(slot))}
        for one, other in combinations(borne, 2):
            senses = self.sentence.known[one], self.sentence.known[other]
            if senses[0].kind == senses[1].kind and senses[0] != senses[1] and borne[one].isdisjoint(borne[other]):
                found.setdefault(one, other)
                found.setdefault(other, one)
        return found

    def _unknown(self) -> Iterator[_Change]:
        """Two unknown nouns on the sides of a word that has a direction change places: a quokka in an erg."""
        words, places = self.sentence.words, range(len(self.sentence.words))
        unknown = [place for place in places if self.sentence.is_unknown_noun(place)]
        broken = [0, *accumulate(self.sentence.breaks(place) for place in places)]
        directed = [0, *accumulate(word.lower in _DIRECTED for word in words)]
        # With "above" between them replaced by "below", an exchange would say the same again.
        relation = {
            slot.first for slot, sense in self.sentence.known.items() if sense.kind.startswith(("place", "side"))
        }
        related = [0, *accumulate(place in relation for place in places)]
        for one, other in self._shuffled(list(combinations(unknown, 2))[:_PAIRS]):
            crosses = directed[other] > directed[one] and related[other] == related[one]
            crosses = crosses and broken[other + 1] == broken[one + 1]
            first, second = words[one].lower, words[other].lower
            alike = first != second and first.endswith("s") == second.endswith("s")  # "a gnats" would be no English
            # Where their attributes have changed places, each would have its own again.
            moved = {one - 1, other - 1} <= self.touched
            if crosses and alike and not moved and not self.touched & {one, other}:
                yield self._exchange(Slot(one, one), Slot(other, other))

    def _left_out(self) -> Iterator[_Change]:
        """Phrases that nothing has changed, with the word or the comma that opens them; the last first."""
        words, kept = self.sentence.words, self.sentence.kept
        opens = [word.lower in _OPENERS or self.sentence.breaks(place) for place, word in enumerate(words)]
        starts = [place for place in range(1, len(words)) if opens[place]]
        for first, end in reversed(list(pairwise([*starts, len(words)]))):
            count = sum(word.counts for word in words[first:end])
            listed = end < len(words) and words[end].lower in ("and", "or")  # blonde hair and blue eyes
            made_by = words[first].lower == "by"  # by Salvador Dali
            if count and not listed and not made_by and not (self.touched | kept) & set(range(first, end)):
                yield _Change((Edit(words[first - 1].end, words[end - 1].end, ""),), count)

    def _exchange(self, one: Slot, other: Slot) -> _Change:
        return self._change((one, self.sentence.written(other)), (other, self.sentence.written(one)))

    def _change(self, *pairs: tuple[Slot, str]) -> _Change:
        edits, count = [], 0
        for slot, text in pairs:
            words = self.sentence.words[slot.first : slot.last + 1]
            self.touched.update(range(slot.first, slot.last + 1))
            count += max(1, sum(word.counts for word in words))
            edits.append(Edit(words[0].start, words[-1].end, cased(text.lower(), self.sentence.written(slot))))
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
