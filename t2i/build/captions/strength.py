"""How much of a caption is changed: DCPO's three strengths (Saeedi et al., arXiv 2502.06023).

The paper's shares are of all words, and so a model is asked for them. The rules take them of the words that say what is
shown: no articles and prepositions, nothing that tells how the picture is made.
"""

from __future__ import annotations

from ....errors import UserError

STRENGTHS = {"weak": 0.4, "medium": 0.6, "strong": 0.8}
"""The share of the words that is changed."""


def share_of(strength: str) -> float:
    """The share of a strength.

    Raises:
        UserError: there is no such strength.
    """
    if strength not in STRENGTHS:
        raise UserError(f"there is no strength {strength!r}; there are {', '.join(STRENGTHS)}")
    return STRENGTHS[strength]
