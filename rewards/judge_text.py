"""What a judging model says, made plain enough for patterns: `judge_marks` and `judge_verdicts` read it.

An answer that does not say one clear thing says nothing: a guess at what was meant, or a 0, would pass for a judgement.
So only what `judge_prompts` asks for is read, where it is stated and not where a sentence talks about it.
"""

from __future__ import annotations

import re

from .thoughts import conclusion

_MARKUP, _BREAK = re.compile(r"[*_`#]"), re.compile(r"<br\s*/?>", re.I)
_ASCII = str.maketrans(
    {"。": ".\n", "！": "!\n", "？": "?\n", "‐": "-", "‑": "-"} | dict(zip("：；，／（）％＝", ":;,/()%=", strict=True))
)
_BLANKS, _LINES = re.compile(r"[^\S\n]+"), re.compile(r"(?: ?\n ?)+")
SENTENCE_END = re.compile(r"\n|(?<=[.!?])(?=[\"'”’)\]]*(?:\s|$))")


def plain_text(answer: str) -> str:
    """What a model says after its thoughts, with ASCII punctuation, without markup and runs of blanks, which patterns
    would take long for."""
    said = (conclusion(answer) or "").translate(_ASCII)
    return _LINES.sub("\n", _BLANKS.sub(" ", _MARKUP.sub("", _BREAK.sub("\n", said))))


def quoted(answer: str, length: int = 80) -> str:
    """The start of an answer, on one line."""
    return repr(answer if len(answer) <= length else f"{answer[:length]}...")
