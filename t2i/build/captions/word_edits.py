"""A text as words with places, and changes of some of them that leave all else as it stands."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

_WORD = re.compile(r"\w+(?:['’-]\w+)*")
_VOWEL = re.compile(r"(?!uni|use|eu|one)[aeiou]|hour|honest|heir")

_EMPTY_WORDS = (
    "a an the this that these those some any each every of and or but nor in at to from by for with as into onto "
    "through during up down out off it its they them their he him his she her hers we our you your i my is are was "
    "were be been being am has have had do does did there here who whom which what where when while so very no not "
    "than then"
)
EMPTY = frozenset(_EMPTY_WORDS.split())
"""Words that show nothing; of all others, but those that are kept, the rules change a strength's share."""

_DETERMINERS = "a an the this that these those some each every his her its their my your our"
DETERMINERS = frozenset(_DETERMINERS.split())
_VERBS = "made seen worn held built lit set wears holds rides sits stands walks runs jumps flies eats plays looks"
_FREQUENT_VERBS = frozenset(_VERBS.split())


@dataclass(frozen=True)
class Word:
    """A word and its place in the text."""

    text: str
    start: int
    end: int

    @property
    def lower(self) -> str:
        """As it is looked up."""
        return self.text.casefold()

    @property
    def counts(self) -> bool:
        """Whether it says something."""
        return self.lower not in EMPTY

    @property
    def may_be_verb(self) -> bool:
        """Whether it is a frequent verb, or ends as participles and adverbs do: after a noun, no part of a name."""
        return self.lower in _FREQUENT_VERBS or self.lower.endswith(("ing", "ed", "ly"))


@dataclass(frozen=True)
class Edit:
    """Another text in place of a stretch of the text."""

    start: int
    end: int
    text: str


def words_of(text: str) -> list[Word]:
    """The words, in order; what stands between them belongs to none."""
    return [Word(match.group(), *match.span()) for match in _WORD.finditer(text)]


def cased(text: str, like: str) -> str:
    """A word or phrase with capitals as another has them."""
    if like.isupper() and len(like) > 1:
        return text.upper()
    return text[:1].upper() + text[1:] if like[:1].isupper() else text


def apply_edits(text: str, edits: Sequence[Edit]) -> str:
    """The text with all edits, which do not overlap, and with "a" or "an" right before a word that was changed."""
    ordered = sorted([*edits, *_articles(text, edits)], key=lambda edit: edit.start)
    pieces, place = [], 0
    for edit in ordered:
        pieces += [text[place : edit.start], edit.text]
        place = edit.end
    return "".join([*pieces, text[place:]])


def _articles(text: str, edits: Sequence[Edit]) -> Iterator[Edit]:
    new = {edit.start: edit.text for edit in edits if edit.text}
    for article, word in pairwise(words_of(text)):
        if article.lower in ("a", "an") and word.start in new and text[article.end : word.start].isspace():
            right = "an" if _VOWEL.match(new[word.start].lower()) else "a"
            if right != article.lower and not any(edit.start <= article.start < edit.end for edit in edits):
                yield Edit(article.start, article.end, cased(right, article.text))
