"""Question templates: what a vision-language model is asked about a picture, with `{prompt}` in it.

The wording decides the numbers. So a reward keeps its template in the open, and two scores that were asked for in
different words are not to be compared.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import UserError

SLOT = "{prompt}"


def read_template(given: str | Path | None, default: str) -> str:
    """The default where nothing is given, a text with `{prompt}` as it stands, and else the content of a text file.

    Raises:
        UserError: there is no such file, or it has no `{prompt}`.
    """
    if given is None:
        return default
    if isinstance(given, str) and SLOT in given:
        return given
    try:
        text = Path(given).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(
            f"the template {str(given)[:80]!r} is neither a text with {SLOT} in it nor a text file; give one of them"
        ) from error
    if SLOT not in text:
        raise UserError(f"the template {given} has no {SLOT}, the place where a picture's prompt goes; add it")
    return text


def fill(template: str, prompt: str) -> str:
    """The question about one prompt; other braces in template or prompt are left as they are."""
    return template.replace(SLOT, prompt)
