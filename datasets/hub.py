"""Stream the rows of a data set on the Hugging Face hub, media left encoded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import UserError


@dataclass(frozen=True)
class HubStream:
    """A remote split: its column names, and its rows one by one."""

    columns: tuple[str, ...]
    rows: Iterator[dict[str, Any]]


def open_hub(name: str, split: str = "train", columns: tuple[str, ...] | None = None) -> HubStream:
    """Open `owner/name` as a stream; only `columns` (those that exist) are fetched.

    Raises UserError: no such data set or split, or the hub cannot be reached.
    """
    import datasets as hf_datasets  # Hugging Face's library: palate's folder of this name has no __init__.py

    try:
        stream = hf_datasets.load_dataset(name, split=split, streaming=True)
        names = list(stream.column_names or next(iter(stream.take(1)), {}))
        if columns is not None and any(column in names for column in columns):
            stream = stream.select_columns([column for column in columns if column in names])
        # Decoding here would lose the bytes as they were published, and cost time for nothing.
        return HubStream(tuple(names), iter(stream.decode(False)))
    except Exception as error:  # the library raises its own, the hub client's and the network's errors
        raise UserError(
            f"{name!r} is not on this disk, and split {split!r} cannot be read from the hub ({_first_line(error)}): "
            "check the id, the split and the network, or download its Parquet files and give their folder"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
