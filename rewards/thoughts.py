"""What a model thinks before it answers, between the marks that chat models have in common."""

from __future__ import annotations

from ..errors import UserError

OPENED, CLOSED = "<think>", "</think>"


def opens_thoughts(chat: str) -> bool:
    """Whether a chat template has opened the thoughts, so that the answer will show their end alone."""
    return chat.rstrip().endswith(OPENED)


def conclusion(answer: str) -> str | None:
    """What comes after the thoughts, between `<answer>` and `</answer>` where it is so marked.

    None where the answer ends within its thoughts: what stands there may be weighed and not meant.
    """
    said = answer.rpartition(CLOSED)[2]
    return None if OPENED in said else said.rpartition("<answer>")[2].partition("</answer>")[0]


def require_room(max_tokens: int, usual: int) -> None:
    """Raises UserError: an answer has no room for a single token."""
    if max_tokens < 1:
        raise UserError(f"max_tokens is {max_tokens}; it is 1 or more, as {usual}")


def told_cut_off(max_tokens: int, where: str = "") -> str:
    """The reason why an answer that has no end counts for nothing."""
    return f"the answer was cut off{where}; raise max_tokens, which is {max_tokens}"
