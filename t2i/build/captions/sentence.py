"""A text as the rules see it: which of its words the lexicon knows, which stay, and which are a noun's."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from .kept_words import kept_places
from .lexicon import Lexicon, Sense
from .word_edits import DETERMINERS, Word

_TAKE_OBJECTS = frozenset(["flying", "eating", "climbing", "reading", "singing", "fighting"])
_NO_OBJECTS_WORDS = (
    "around across along against among between toward towards past like after before together alone outside outdoors"
)
_NO_OBJECTS = frozenset(_NO_OBJECTS_WORDS.split())


@dataclass(frozen=True)
class Slot:
    """Words `first` to `last` (inclusive) that can be changed; `sense` is None where the lexicon has none."""

    first: int
    last: int
    sense: Sense | None = None


@dataclass(frozen=True, eq=False)
class Sentence:
    """A text, its words, and the lexicon that it is read by."""

    text: str
    words: list[Word]
    lexicon: Lexicon

    @cached_property
    def kept(self) -> frozenset[int]:
        """Words that no change touches."""
        return kept_places(self.text, self.words, lambda word: self._kind(word) in self.lexicon.attributes)

    @cached_property
    def known(self) -> dict[Slot, Sense]:
        """What the lexicon has, the longest phrase first, no word twice."""
        found, place = {}, 0
        while place < len(self.words):
            slots = (self._at(place, length) for length in range(self.lexicon.longest, 0, -1))
            slot = next((slot for slot in slots if slot and slot.sense), None)
            if slot and slot.sense:
                found[slot] = slot.sense
            place = slot.last + 1 if slot else place + 1
        return found

    @cached_property
    def kinds(self) -> dict[int, str]:
        """The classes of the words that the lexicon has, by their numbers."""
        return {place: sense.kind for slot, sense in self.known.items() for place in range(slot.first, slot.last + 1)}

    def is_bound(self, slot: Slot) -> bool:
        """Whether the next word has need of this one: a rose before "garden" is no flower, and nobody sits a book."""
        kind, follows = self.known[slot].kind, slot.last + 1
        if follows == len(self.words) or not self.gap(follows).isspace():
            return False
        after, kept = self.words[follows], follows in self.kept
        of_thing = self._kind(after) in self.lexicon.nouns
        unknown = self._kind(after) is None and after.counts and not after.may_be_verb
        if kind == "action":
            object_of = self.words[slot.last].lower in _TAKE_OBJECTS and unknown and after.lower not in _NO_OBJECTS
            described = after.lower in DETERMINERS or self._kind(after) in self.lexicon.attributes
            return kept or described or of_thing or object_of
        return kind in self.lexicon.nouns and not kept and (of_thing or unknown)

    def is_unknown_noun(self, place: int) -> bool:
        """Whether a word stands alone where a noun does: after a determiner or attributes, and before no other word."""
        word, follows = self.words[place], place + 1
        taken = place in self.kept or place in self.kinds or self._kind(word) is not None
        if taken or not word.counts or word.may_be_verb:
            return False
        if place == 0 or not self.gap(place).isspace():
            return False
        before = self.words[place - 1]
        if before.lower not in DETERMINERS and self._kind(before) not in self.lexicon.attributes:
            return False
        if follows == len(self.words) or not self.gap(follows).isspace():
            return True
        after = self.words[follows]
        part_of_name = {None, *self.lexicon.nouns, *self.lexicon.attributes}
        return not after.counts or self._kind(after) not in part_of_name or after.may_be_verb

    def nouns_of(self, slot: Slot) -> frozenset[str]:
        """The words after an attribute that may name what has it, its other attributes passed over: pink fluffy sky.

        Empty where none follows, or the slot is no attribute.
        """
        if self.known[slot].kind not in self.lexicon.attributes:
            return frozenset()
        found = set[str]()
        for place in range(slot.last + 1, len(self.words)):
            word, kind = self.words[place], self.kinds.get(place)
            named = kind in self.lexicon.nouns or (kind is None and word.counts and not word.may_be_verb)
            if not self.gap(place).isspace() or not (named or kind in self.lexicon.attributes):
                break
            if named:
                found.add(word.lower)
        return frozenset(found)

    def written(self, slot: Slot) -> str:
        """The words of a slot as the text has them."""
        return self.text[self.words[slot.first].start : self.words[slot.last].end]

    def breaks(self, place: int) -> bool:
        """Whether a mark stands before a word."""
        return any(mark in self.gap(place) for mark in ",;:.|\n")

    def gap(self, place: int) -> str:
        """What stands before a word."""
        return self.text[self.words[place - 1].end if place else 0 : self.words[place].start]

    def _at(self, place: int, length: int) -> Slot | None:
        words = self.words[place : place + length]
        sense = self.lexicon.senses.get(tuple(word.lower for word in words))
        places = range(place, place + len(words))
        if sense is None or self.kept & set(places) or any(not self.gap(i).isspace() for i in places[1:]):
            return None
        if words[0].text.isdigit() and not (self.gap(place) + " ").isspace():  # "16:9 inches"
            return None
        return Slot(place, places[-1], sense)

    def _kind(self, word: Word) -> str | None:
        sense = self.lexicon.senses.get((word.lower,))
        return sense and sense.kind
