"""How a judging model's answer is read: its marks, or its verdict on a pair.

An answer that does not say one clear thing says nothing: a guess at what was meant, or a 0, would pass for a judgement.
So only what `judge_prompts` asks for is read, where it is stated and not where a sentence talks about it.
"""

from __future__ import annotations

import math
import re
from typing import Literal

from .judge_prompts import HIGH, LOW, Rubric
from .thoughts import conclusion

Verdict = Literal["first", "second", "both"]

_MARKUP, _BREAK = re.compile(r"[*_`#]"), re.compile(r"<br\s*/?>", re.I)
_ASCII = str.maketrans(
    {"。": ".\n", "！": "!\n", "？": "?\n", "‐": "-", "‑": "-"} | dict(zip("：；，／（）％＝", ":;,/()%=", strict=True))
)
_BLANKS, _LINES = re.compile(r"[^\S\n]+"), re.compile(r"(?: ?\n ?)+")
_SENTENCE_END = re.compile(r"\n|(?<=[.!?])(?=[\"'”’)\]]*(?:\s|$))")

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

_MENTION = re.compile(
    r"\bimage\s+(?P<number>[12])\s+is\s+(?:(?:clearly|slightly|much|far)\s+)?better\b|\bboth\s+images\s+are\s+equally\s+good\b",
    re.I,
)
_OPENING = r"[\s\"'“‘(\[>•–—-]*"
_LEAD = (
    r"(?:(?:the|my)\s+)?(?:final\s+)?(?:answer|verdict|conclusion|decision|judge?ment|choice)(?:\s+is)?\s*:",
    r"(?:so|thus|hence|therefore|overall|finally|all\s+in\s+all|on\s+the\s+whole|to\s+conclude)\b[,:]?",
    r"in\s+(?:all|conclusion|summary|short|total|the\s+end)\b[,:]?",
    r"(?:based\s+on|considering|given)\s+(?:all|everything|this|these|the\s+above)\b[^,.:]{0,40},",
)
_BEFORE_A_VERDICT = re.compile(rf"{_OPENING}(?:(?P<lead>{'|'.join(_LEAD)}){_OPENING})?", re.I)
_THAN = r"(?:\s+than\s+image\s+[12])?"
_BARE = re.compile(rf"{_THAN}\W*", re.I)
_REASONED = re.compile(  # but not: better as a sketch, better for its colours
    rf"{_THAN}\s*(?:[,;:(–—-]+\s*(?:as|for|given)|[,;:(–—-]*\s*(?:because|since|due|thanks))\b[^?]*", re.I
)
_TURN = re.compile(
    r"\b(?:but|however|nevertheless|nonetheless|wins?|winner|worse|loses|wait|actually|instead|prefer\w*)\b", re.I
)


def read_marks(answer: str, rubric: Rubric, cut_off: bool = False) -> dict[str, float]:
    """The mark of each of a rubric's aspects; NaN where the answer does not give exactly one from 1 to 5.

    Bold type, "4/5" and "4 out of 5" are understood; "4/10", "3-4", "80%" and two different marks are not, nor is one
    within a sentence, a question or thoughts that do not end, nor one whose sentence has another number: often that is
    the scale. Of an answer that was cut off the last sentence is left out: a 4 may have become 4.5.
    """
    plain = _plain(answer)
    if cut_off:
        plain = "\n".join([sentence for sentence in _SENTENCE_END.split(plain) if sentence.strip()][:-1])
    labels = "|".join(map(_pattern, rubric.labels.values()))
    next_mark = re.compile(
        rf"[\"']?(?:\(?\d\d?[.)][ \t]*)?(?:{labels}){_SCALE}{_GIVES}", re.I
    )  # maybe in a numbered list
    return {aspect: _read_mark(plain, label, next_mark) for aspect, label in rubric.labels.items()}


def read_verdict(answer: str) -> Verdict | None:
    """Which picture the answer calls the better one; None where it calls none or is not clear.

    What counts is a sentence that begins as asked for, or with a word that concludes ("Answer: ...", "So ...",
    "Overall, ..."), and says no more, or why. That a picture is better in something, and a question, state nothing, and
    leave open a verdict before them if they speak of another; so does what turns round ("However, ...", "... wins").
    Where two verdicts contradict each other, the last counts if it concludes, or ends the answer and has no reasons, as
    the question asks for.
    """
    sentences = [sentence for sentence in _SENTENCE_END.split(_plain(answer)) if re.search(r"\w", sentence)]
    stated: list[Verdict] = []
    clear = concludes = False
    for number, sentence in enumerate(sentences, start=1):
        mentions = list(_MENTION.finditer(sentence))
        verdicts: list[Verdict] = [_verdict(mention) for mention in mentions]
        before, rest = (sentence[: mentions[0].start()], sentence[mentions[0].end() :]) if mentions else ("", "")
        lead, bare = _BEFORE_A_VERDICT.fullmatch(before), _BARE.fullmatch(rest) is not None
        says_why = _REASONED.fullmatch(rest) is not None and not _TURN.search(rest)
        if mentions and lead and len({*verdicts}) == 1 and "?" not in rest and (bare or says_why):
            stated.append(verdicts[0])
            clear = True
            concludes = bool(lead["lead"]) or (number == len(sentences) and bare)
        elif stated and ({*verdicts} - {stated[-1]} or _TURN.search(sentence)):
            clear = False
    return stated[-1] if clear and (concludes or len({*stated}) == 1) else None


def quoted(answer: str, length: int = 80) -> str:
    """The start of an answer, on one line."""
    return repr(answer if len(answer) <= length else f"{answer[:length]}...")


def _plain(answer: str) -> str:
    """What a model says after its thoughts, with ASCII punctuation, without markup and runs of blanks, which patterns
    would take long for."""
    said = (conclusion(answer) or "").translate(_ASCII)
    return _LINES.sub("\n", _BLANKS.sub(" ", _MARKUP.sub("", _BREAK.sub("\n", said))))


def _pattern(label: str) -> str:
    """A label as models write it: hyphens may be blanks."""
    return re.escape(label).replace(r"\-", "[- ]")


def _verdict(mention: re.Match[str]) -> Verdict:
    return "both" if mention["number"] is None else "first" if mention["number"] == "1" else "second"


def _read_mark(plain: str, label: str, next_mark: re.Pattern[str]) -> float:
    pattern = rf"(?<![\w-]){_pattern(label)}{_SCALE}{_GIVES}[ \t]*{_NEXT_LINE}{_BRACKETED}{_OF_FIVE}"
    marks, told_of = set[float](), set[float]()
    for match in re.finditer(pattern, plain, re.IGNORECASE):
        before = _CLAUSE_END.split(plain[max(0, match.start() - _NEAR) : match.start()].rpartition("\n")[2])[-1]
        rest = next_mark.split(plain[match.end() : match.end() + _NEAR].split("\n", 1)[0], maxsplit=1)[0]
        sentence = _SENTENCE_END.split(rest, maxsplit=1)[0]
        if not _BEFORE_A_MARK.fullmatch(before) or "?" in sentence:
            told_of |= {float(match["mark"])} if marks else set()
            continue
        if _NO_MARK.match(rest) or re.search(r"\d", sentence):
            return math.nan
        marks.add(float(match["mark"]))
    mark = marks.pop() if len(marks) == 1 and told_of <= marks else math.nan
    return mark if LOW <= mark <= HIGH else math.nan
