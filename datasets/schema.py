"""The group on disk: an Arrow schema that Hugging Face's `datasets` reads, pictures decoded, without palate."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from .group import Group

REQUIRED = ("key", "prompt", "candidates", "labels")

_TEXT = {"dtype": "string", "_type": "Value"}
_FLOAT = {"dtype": "float64", "_type": "Value"}
_INT = {"dtype": "int64", "_type": "Value"}
_MEDIA = {
    "image": {"_type": "Image"},
    "audio": {"_type": "Audio"},
    "text": {"bytes": {"dtype": "binary", "_type": "Value"}, "path": _TEXT},
}


def arrow_schema(media: str = "image") -> pa.Schema:
    """The schema of a shard. `media` ("image", "audio" or "text") only says how other tools show the candidates.

    Aspects are a list of (name, values) because `datasets` has no map type.
    """
    if media not in _MEDIA:
        raise ValueError(f"media must be one of {', '.join(_MEDIA)}, not {media!r}")
    columns = [
        ("key", pa.string()),
        ("prompt", pa.string()),
        ("candidates", pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))),
        ("labels", pa.list_(pa.float64())),
        ("captions", pa.list_(pa.string())),
        ("aspects", pa.list_(pa.struct([("name", pa.string()), ("values", pa.list_(pa.float64()))]))),
        ("source", pa.string()),
        ("model", pa.list_(pa.string())),
        ("seed", pa.list_(pa.int64())),
        ("rater", pa.string()),
    ]
    return pa.schema(columns, metadata={b"huggingface": json.dumps({"info": {"features": _features(media)}}).encode()})


def _features(media: str) -> dict[str, Any]:
    """What `datasets` keeps under the metadata key `huggingface`; its library writes the same."""

    def listed(feature: dict[str, Any]) -> dict[str, Any]:
        return {"feature": feature, "_type": "List"}

    return {
        "key": _TEXT,
        "prompt": _TEXT,
        "candidates": listed(_MEDIA[media]),
        "labels": listed(_FLOAT),
        "captions": listed(_TEXT),
        "aspects": listed({"name": _TEXT, "values": listed(_FLOAT)}),
        "source": _TEXT,
        "model": listed(_TEXT),
        "seed": listed(_INT),
        "rater": _TEXT,
    }


def to_table(groups: Sequence[Group], schema: pa.Schema) -> pa.Table:
    """Groups as an Arrow table, one row each."""
    return pa.Table.from_pylist([_to_row(group) for group in groups], schema=schema)


def _to_row(group: Group) -> dict[str, Any]:
    aspects = group.aspects
    return {
        "key": group.key,
        "prompt": group.prompt,
        "candidates": [{"bytes": candidate, "path": None} for candidate in group.candidates],
        "labels": group.labels,
        "captions": group.captions,
        "aspects": None
        if aspects is None
        else [
            {"name": name, "values": [None if math.isnan(value) else value for value in values]}
            for name, values in aspects.items()
        ],
        "source": group.source,
        "model": group.model,
        "seed": group.seed,
        "rater": group.rater,
    }


def from_row(row: Mapping[str, Any]) -> Group:
    """A group from one row of the schema; columns that a foreign writer left out are None.

    Raises ValueError: a candidate without bytes, or what `Group` refuses.
    """
    candidates = [media_bytes(candidate) for candidate in row["candidates"] or ()]
    if any(candidate is None for candidate in candidates):
        raise ValueError("a candidate holds a path in place of its bytes")
    aspects = row.get("aspects")
    return Group(
        key=row["key"] or "",
        prompt=row["prompt"],
        candidates=tuple(candidate for candidate in candidates if candidate is not None),
        labels=tuple(math.nan if label is None else label for label in row["labels"] or ()),
        captions=row.get("captions"),
        aspects=None
        if aspects is None
        else {
            aspect["name"]: tuple(math.nan if value is None else value for value in aspect["values"])
            for aspect in aspects
        },
        source=row.get("source"),
        model=row.get("model"),
        seed=row.get("seed"),
        rater=row.get("rater"),
    )


def media_bytes(value: Any) -> bytes | None:
    """The bytes of a media cell, which is either plain binary or the struct (bytes, path) of `datasets`."""
    if isinstance(value, Mapping):
        value = value.get("bytes")
    return value if isinstance(value, bytes) else None
