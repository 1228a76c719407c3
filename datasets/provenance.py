"""What a group says of where a picture is from, such as `owner/name@revision + lora`: written and read here."""

from __future__ import annotations


def provenance(model: str, revision: str | None = None, lora: str | None = None) -> str:
    """A model, which of its revisions, and the LoRA on it, as one text."""
    base = f"{model}@{revision}" if revision else model
    return base if lora is None else f"{base} + {lora}"


def models_named(told: str) -> tuple[str, ...]:
    """What the model of a `provenance` may be called, the longest first: a folder's name may have either mark in it."""
    base = told.partition(" + ")[0]
    return tuple(dict.fromkeys(name for name in (told, base, base.rpartition("@")[0]) if name))
