"""A model or a tokenizer in the layout of transformers: loaded whole, or refused in one line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.utils.peft_utils import find_adapter_config_file

from ..errors import UserError
from .quiet import quiet

_COMPUTED = ("position_ids", "inv_freq", "masked_bias", "attn.bias")
"""Ends of the names of tensors that old checkpoints hold and models now compute."""


def load_pretrained(
    kind: Any, source: str | Path, called: str, advice: str, spare: Sequence[str] = (), **options: Any
) -> Any:
    """`kind.from_pretrained(source, **options)`, without code from the checkpoint.

    Args:
        kind: a class or an `Auto...` of transformers.
        source: a folder, in which `~` is the user's home, or a hub id.
        called: what it should be, for the error's text, with its article.
        advice: what to give in its place.
        spare: tensors that it may lack.

    Raises:
        UserError: it cannot be read, lacks a tensor, has one of another size, or, where it must be a model of this kind
            alone, more of them; transformers would draw the first two at random and drop what is left over.
    """
    path = _at_home(source)
    if _is_adapter(path):  # its scores would depend on weights that lie elsewhere
        raise UserError(f"{path} is an adapter; merge it into its model and give the whole")
    # Without one transformers builds a model of its default size.
    if Path(path).is_dir() and not (Path(path) / "config.json").is_file():
        raise UserError(f"{path} cannot be loaded as {called} (it holds no config.json); {advice}")
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
        raise UserError(f"{path} cannot be loaded as {called} ({_why(path, error)}); {advice}") from error
    missing = sorted(set(report["missing_keys"]) - set(spare))
    if missing:
        raise UserError(f"{path} lacks {missing[0]} ({len(missing)} tensors in all); {advice}")
    wrong = sorted(name for name, *_ in report["mismatched_keys"])
    if wrong:
        raise UserError(
            f"{path} lacks {wrong[0]} in the size that its config.json tells ({len(wrong)} tensors in all); {advice}"
        )
    # Old checkpoints hold what models now compute, such as position_ids.
    left = sorted(set(report["unexpected_keys"]) - {name for name, _ in model.named_buffers()})
    if not _stands_alone(kind):  # what belongs to the whole may lie beside; of the part itself nothing may be left
        own = {name.split(".")[0] for name, _ in model.named_parameters()}
        left = [name for name in left if name.split(".")[0] in own and not name.endswith(_COMPUTED)]
    if left:
        raise UserError(
            f"{path} holds {left[0]}, which has no place in the model that its config.json tells "
            f"({len(left)} tensors in all); {advice}"
        )
    return model


def load_tokenizer(kind: Any, source: str | Path, advice: str) -> Any:
    """`kind.from_pretrained(source)`; of a folder without files it makes a tokenizer of special tokens alone.

    Args:
        kind: a tokenizer's class of transformers.
        source: a folder, in which `~` is the user's home, or a hub id.
        advice: what to give in its place.

    Raises:
        UserError: it cannot be read.
    """
    path = _at_home(source)
    try:
        return kind.from_pretrained(path)
    except MemoryError:
        raise
    except Exception as error:  # as above; the tokenizers package raises plain `Exception`
        raise UserError(f"the tokenizer {path} cannot be loaded ({_why(path, error)}); {advice}") from error


def reason_of(error: Exception) -> str:
    """The first line of what an error says, or its kind where it says nothing."""
    if isinstance(error, KeyError):
        return f"KeyError: {error}"  # which says the key alone
    return next((line for line in map(str.strip, str(error).splitlines()) if line), type(error).__name__)


def _is_adapter(path: str) -> bool:
    """Whether a folder, or a repository of the hub or of its cache, is one of peft's."""
    try:
        return find_adapter_config_file(path) is not None
    except Exception:  # neither a folder nor a repository, or no network: loading tells
        return False


def _at_home(source: str | Path) -> str:
    """A folder with the user's home for `~`; a hub id as it is."""
    return str(Path(source).expanduser()) if str(source).startswith("~") else str(source)


def _why(path: str, error: Exception) -> str:
    told = "" if Path(path).exists() else "there is no such folder; as a hub id: "
    return told + reason_of(error)


def _stands_alone(kind: Any) -> bool:
    """Whether a checkpoint for `kind` holds nothing else.

    Not where `kind` is a part of another model, as CLIP's vision tower is, whose configuration has its place in the
    other's, nor where it is an `Auto...`: chat models come with further heads.
    """
    config = getattr(kind, "config_class", None)
    return config is not None and not config.base_config_key
