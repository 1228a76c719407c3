"""How a judging model's verdict on a pair is read."""

from __future__ import annotations

import re
from typing import Literal

from .judge_text import SENTENCE_END, plain_text

Verdict = Literal["first", "second", "both"]

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


def read_verdict(answer: str) -> Verdict | None:
    """Which picture the answer calls the better one; None where it calls none or is not clear.

    What counts is a sentence that begins as asked for, or with a word that concludes ("Answer: ...", "So ...",
    "Overall, ..."), and says no more, or why. That a picture is better in something, and a question, state nothing, and
    leave open a verdict before them if they speak of another; so does what turns round ("However, ...", "... wins").
    Where two verdicts contradict each other, the last counts if it concludes, or ends the answer and has no reasons, as
    the question asks for.
    """
    sentences = [sentence for sentence in SENTENCE_END.split(plain_text(answer)) if re.search(r"\w", sentence)]
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


def _verdict(mention: re.Match[str]) -> Verdict:
    return "both" if mention["number"] is None else "first" if mention["number"] == "1" else "second"
