"""Counts that took seconds, remembered on disk by what was counted and by the libraries that it was counted with."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_FORMAT = 1  # to be raised when the way of counting changes
_LIBRARIES = ("torch", "diffusers", "transformers", "peft")
_remembered: dict[str, dict[str, int]] = {}


def remember(key: Mapping[str, object], count: Callable[[], dict[str, int]]) -> dict[str, int]:
    """`count()`, or what it gave before for the same key and library versions.

    Args:
        key: everything that the counts depend on, as JSON takes it.

    The folder is `palate/counts` in the user's cache folder; where it cannot be written, every process counts anew.
    """
    text = json.dumps({**key, "format": _FORMAT, "libraries": _versions()}, sort_keys=True, default=list)
    name = hashlib.sha256(text.encode()).hexdigest()
    if name not in _remembered:
        file = _folder() / f"{name}.json"
        found = _read(file)
        _remembered[name] = found or count()
        if not found:
            with contextlib.suppress(OSError):  # a full or read-only disk costs a recount, no more
                _write(file, {"key": json.loads(text), "counts": _remembered[name]})
    return _remembered[name]


def _folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "palate" / "counts"


def _read(file: Path) -> dict[str, int] | None:
    try:
        counts = json.loads(file.read_text(encoding="utf-8"))["counts"]
        return {str(name): int(value) for name, value in counts.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # absent, or cut short by a crash
        return None


def _write(file: Path, value: Mapping[str, object]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps(value), encoding="utf-8")
    part.replace(file)


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
