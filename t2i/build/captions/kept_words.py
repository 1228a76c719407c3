"""Words that the rules leave as they stand: how a picture is made, what is another thing than its words tell, and what
is denied: in a street with no cars there are no trains either."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from .word_edits import Word

_MADE_WORDS = (
    "photo photograph photography picture image snapshot selfie painting watercolor watercolour drawing sketch "
    "doodle illustration portrait portraiture render rendering cartoon comic anime manga art artwork sculpture "
    "mosaic poster print wallpaper logo icon sticker graffiti screenshot cgi style shot closeup close-up macro "
    "panorama angle view perspective lens mm exposure focus bokeh hour lighting composition fantasy resolution "
    "quality masterpiece detail texture contrast hdr uhd hd engine octane artstation deviantart design"
)
_MADE = frozenset(_MADE_WORDS.split())
"""Nouns; their attributes are kept too (a black and white photo, a wide angle)."""

_LOOKS_WORDS = (
    "realistic photorealistic hyperrealistic hyper-realistic photo-realistic realism surreal surrealism abstract "
    "minimalist minimalistic impressionist impressionism cinematic detailed intricate stylized aesthetic aerial "
    "panoramic trending rendered drawn painted best ultra unreal high-resolution ultra-detailed black-and-white"
)
_LOOKS = frozenset(_LOOKS_WORDS.split())
_MATERIALS_WORDS = (
    "oil acrylic ink pencil pen charcoal chalk crayon pastel gouache digital matte vector pixel line concept stock "
    "film analog key fan studio pop street comic flat"
)
_MATERIALS = frozenset(_MATERIALS_WORDS.split())
"""Kept right before what is made of them: a pencil drawing is none of a pencil."""

_FIXED_PHRASES = (
    "depth of field, trending on, hot dog, hot dogs, ice cream, ice cream cone, ice cream cones, teddy bear, "
    "teddy bears, fire hydrant, hot air balloon, hot air balloons, new york, times square, van gogh, star wars, "
    "golden retriever"
)
_FIXED = tuple(tuple(phrase.split()) for phrase in _FIXED_PHRASES.split(", "))
_ENDS_WORDS = "and or but with on in at by of to next near beside under behind above below is are"
_ENDS = frozenset(_ENDS_WORDS.split())
"""Words before which a colour's name stands for the fruit: an orange on a plate."""
_DENIALS_WORDS = "no not without never nobody nothing none neither nor cannot lacking"
_DENIALS = frozenset(_DENIALS_WORDS.split())
_COUNT = re.compile(r"\d+ +[^\W\d_]{3}")  # "2 dogs"; not "16:9", "4k" or "35 mm"


def kept_places(text: str, words: Sequence[Word], is_attribute: Callable[[Word], bool]) -> frozenset[int]:
    """The numbers of the words that are left alone.

    Args:
        words: of the text.
        is_attribute: whether a word tells a colour, a size or the like.
    """
    kept = {*_in_fixed_expressions([word.lower for word in words]), *_denied(text, words)}
    for place, word in enumerate(words):
        if any(sign.isdigit() for sign in word.text):
            if not (word.text.isdigit() and _COUNT.match(text, word.start)):
                kept.add(place)
        elif word.lower in _LOOKS or (word.lower == "orange" and _ends_a_phrase(text, words, place)):
            kept.add(place)
        elif word.lower in _MADE or word.lower.removesuffix("s") in _MADE:
            kept |= set(range(_first_of_its_attributes(text, words, place, is_attribute), place + 1))
    return frozenset(kept)


def _first_of_its_attributes(text: str, words: Sequence[Word], place: int, is_attribute: Callable[[Word], bool]) -> int:
    while place > 0 and text[words[place - 1].end : words[place].start].isspace():
        before = words[place - 1]
        joins = before.lower == "and" and place > 1 and is_attribute(words[place - 2])
        if not (joins or is_attribute(before) or before.lower in _LOOKS | _MATERIALS):
            break
        place -= 1
    return place


def _ends_a_phrase(text: str, words: Sequence[Word], place: int) -> bool:
    if place + 1 == len(words):
        return True
    following = words[place + 1]
    return not text[words[place].end : following.start].isspace() or following.lower in _ENDS


def _denied(text: str, words: Sequence[Word]) -> Iterator[int]:
    """From a denial to the next punctuation."""
    denied = False
    for place, word in enumerate(words):
        goes_on = place > 0 and text[words[place - 1].end : word.start].isspace()
        denied = (denied and goes_on) or word.lower in _DENIALS or word.lower.endswith(("n't", "n’t"))
        if denied:
            yield place


def _in_fixed_expressions(lower: Sequence[str]) -> Iterator[int]:
    for phrase in _FIXED:
        for first in range(len(lower) - len(phrase) + 1):
            if tuple(lower[first : first + len(phrase)]) == phrase:
                yield from range(first, first + len(phrase))
