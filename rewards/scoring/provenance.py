"""Where the numbers of a table come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from ... import __version__
from ..scorer import Label

_NETWORKS = ("torch", "transformers")


def versions() -> dict[str, str]:
    """Of palate and of the libraries that have a say in a score."""
    return {"palate": __version__} | {name: version(name) for name in (*_NETWORKS, "pillow", "numpy")}


def computing(label: Label, here: Mapping[str, str]) -> dict[str, str]:
    """The versions that compute a scorer's scores: a service's, but for Pillow, since pictures are decoded here."""
    return dict(here) if label.service is None else {**label.service.versions, "pillow": here["pillow"]}


def provenance(labels: Sequence[Label], here: Mapping[str, str], batch_size: int, upright: bool) -> dict[str, Any]:
    """Versions, and each scorer's scale, settings and, where that is not this process, who computes it.

    Args:
        here: `versions()`; the networks' libraries are left out where no scorer is computed here.
    """
    idle = _NETWORKS if all(label.service is not None for label in labels) else ()
    described: dict[str, dict[str, Any]] = {}
    for label in labels:
        described[label.name] = {"scale": label.scale, "fingerprint": label.fingerprint, **label.settings}
        if label.service is not None:
            told = {"address": label.service.address, "versions": dict(label.service.versions)}
            described[label.name]["service"] = told
    return {
        "versions": {name: number for name, number in here.items() if name not in idle},
        "batch_size": batch_size,
        "upright": upright,
        "scorers": described,
    }
