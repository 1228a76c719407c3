"""How a judging model's marks are read."""

from __future__ import annotations

import math
import re

from .judge_prompts import HIGH, LOW, Rubric
from .judge_text import SENTENCE_END, plain_text

_ONE_TO_FIVE = r"1[ \t]*(?:-|–|to)[ \t]*5"
_SCALE = rf"(?:\s*[\[(]\s*(?:{_ONE_TO_FIVE}|out[ \t]+of[ \t]+5)\s*[\])])?"
_GIVES = r"[\"']?[ \t]*(?:[:=|]|is\b:?)"
_NEXT_LINE = r"(?:\n[ \t]*(?!\d+[.)][ \t]))?"  # but no numbered list
_NUMBER = r"(?P<mark>[-+]?\d+(?:\.\d+)?)(?![\w%]|[.,]\d)"
_BRACKETED = rf"(?:(?P<open>[\[(<])[ \t]*)?{_NUMBER}(?(open)[ \t]*[\])>])"
_OF_FIVE = (
    r"(?:[ \t]*(?:/[ \t]*5(?:\.0+)?(?![\w%]|[.,]\d)"
    rf"|[\[(][ \t]*(?:scale[ \t]+)?{_ONE_TO_FIVE}(?:[ \t]+scale)?[ \t]*[\])]"
    rf"|[\[(]?on[ \t]+a[ \t]+(?:scale[ \t]+(?:of|from)[ \t]+{_ONE_TO_FIVE}|{_ONE_TO_FIVE}[ \t]+scale)(?!\w|\.\d)[\])]?"
    r"|[\[(]?(?:(?:points?|stars?)[ \t]+)?(?:out[ \t]+)?of[ \t]+(?:5(?:\.0+)?(?!\w|\.\d)|five\b)[\])]?))?"
)
_NO_MARK = re.compile(  # 1 = bad, 4 %, 4 /ten, 4 points out of ten, 4 or higher, 4 and a half
    r"[ \t]*,?[ \t]*(?:[=:%/]|(?:percent|to|or|plus|minus|at|and[ \t]+(?:a|one|half|three))\b"
    r"|[\[(]?(?:(?:points?|stars?)[ \t]+)?(?:out[ \t]+)?of\b)",
    re.I,
)
_NEAR = 500  # characters before and after a mark that may tell what it means
_CLAUSE_END = re.compile(r"[^\w\s'’]|(?<!\w)['’]")
_BEFORE_A_MARK = re.compile(
    r"\s*\d*\s*(?:(?:and|so|thus|therefore|hence)\s+)?(?:(?:the|my)\s+)?(?:overall|final)?\s*", re.I
)


def read_marks(answer: str, rubric: Rubric, cut_off: bool = False) -> dict[str, float]:
    """The mark of each of a rubric's aspects; NaN where the answer does not give exactly one from 1 to 5.

    Bold type, "4/5" and "4 out of 5" are understood; "4/10", "3-4", "80%" and two different marks are not, nor is one
    within a sentence, a question or thoughts that do not end, nor one whose sentence has another number: often that is
    the scale. Of an answer that was cut off the last sentence is left out: a 4 may have become 4.5.
    """
    plain = plain_text(answer)
    if cut_off:
        plain = "\n".join([sentence for sentence in SENTENCE_END.split(plain) if sentence.strip()][:-1])
    labels = "|".join(map(_pattern, rubric.labels.values()))
    next_mark = re.compile(
        rf"[\"']?(?:\(?\d\d?[.)][ \t]*)?(?:{labels}){_SCALE}{_GIVES}", re.I
    )  # maybe in a numbered list
    return {aspect: _read_mark(plain, label, next_mark) for aspect, label in rubric.labels.items()}


def _pattern(label: str) -> str:
    """A label as models write it: hyphens may be blanks."""
    return re.escape(label).replace(r"\-", "[- ]")


def _read_mark(plain: str, label: str, next_mark: re.Pattern[str]) -> float:
    pattern = rf"(?<![\w-]){_pattern(label)}{_SCALE}{_GIVES}[ \t]*{_NEXT_LINE}{_BRACKETED}{_OF_FIVE}"
    marks, told_of = set[float](), set[float]()
    for match in re.finditer(pattern, plain, re.IGNORECASE):
        before = _CLAUSE_END.split(plain[max(0, match.start() - _NEAR) : match.start()].rpartition("\n")[2])[-1]
        rest = next_mark.split(plain[match.end() : match.end() + _NEAR].split("\n", 1)[0], maxsplit=1)[0]
        sentence = SENTENCE_END.split(rest, maxsplit=1)[0]
        if not _BEFORE_A_MARK.fullmatch(before) or "?" in sentence:
            told_of |= {float(match["mark"])} if marks else set()
            continue
        if _NO_MARK.match(rest) or re.search(r"\d", sentence):
            return math.nan
        marks.add(float(match["mark"]))
    mark = marks.pop() if len(marks) == 1 and told_of <= marks else math.nan
    return mark if LOW <= mark <= HIGH else math.nan
