"""A model in the layout of transformers: loaded whole, or refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from .quiet import quiet


def load_pretrained(kind: Any, source: str | Path, called: str, advice: str, **options: Any) -> Any:
    """`kind.from_pretrained(source, **options)`, without code from the checkpoint.

    Args:
        source: a folder, in which `~` is the user's home, or a hub id.
        called: what it should be, for the error's text, with its article.
        advice: what to give in its place.

    Raises:
        UserError: it cannot be read, lacks a tensor, or has one of another size; transformers would fill such with
            random numbers.
    """
    path = str(Path(source).expanduser()) if str(source).startswith("~") else str(source)
    try:
        with quiet():
            model, report = kind.from_pretrained(
                path,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported below, by name
                **options,
            )
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # no folder, no network, damaged, another kind of model, a pickle with code: a dozen
        told = "" if Path(path).exists() else "there is no such folder; as a hub id: "
        raise UserError(f"{path} cannot be loaded as {called} ({told}{reason_of(error)}); {advice}") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise UserError(f"{path} lacks {missing[0]} ({len(missing)} tensors in all); {advice}")
    wrong = sorted(name for name, *_ in report["mismatched_keys"])
    if wrong:
        raise UserError(
            f"{path} lacks {wrong[0]} in the size that its config.json tells ({len(wrong)} tensors in all); {advice}"
        )
    return model


def reason_of(error: Exception) -> str:
    """The first line of what an error says, or its kind where it says nothing."""
    return next((line for line in map(str.strip, str(error).splitlines()) if line), type(error).__name__)
