"""Random access to groups on disk, for a training loader."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ..errors import UserError
from .group import Group
from .parquet import open_parquet, read_columns
from .schema import REQUIRED, from_row
from .sources import parquet_files


class GroupStore:
    """The groups of a file, folder or pattern, by number.

    Opening reads the footers only; `store[i]` reads the one row group that holds group i. Each thread keeps its own
    file and its last row group, so threads and forked or spawned workers share one store, and reading in order costs
    one read per row group. Raises UserError for an empty store or one with other columns than palate's.
    """

    def __init__(self, source: str | Path, split: str | None = None) -> None:
        self.files = parquet_files(source, split)
        self._row_groups: list[tuple[int, int]] = []  # (file, row group) by running number
        self._starts: list[int] = []  # the first group's number in each
        count = 0
        for file_number, file in enumerate(self.files):
            with open_parquet(file) as parquet:
                missing = [name for name in REQUIRED if name not in parquet.schema_arrow.names]
                if missing:
                    raise UserError(f"{file} has no column {', '.join(missing)}: convert it with `palate data convert`")
                for row_group in range(parquet.num_row_groups):
                    self._row_groups.append((file_number, row_group))
                    self._starts.append(count)
                    count += parquet.metadata.row_group(row_group).num_rows
        if count == 0:
            raise UserError(f"{str(source)!r} holds no groups")
        self._count = count
        self._local = threading.local()

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Group:
        """Group `index`; negative numbers count from the end. Raises IndexError, and UserError for a broken group."""
        number = index + self._count if index < 0 else index
        if not 0 <= number < self._count:
            raise IndexError(f"group {index} of {self._count}")
        place = bisect_right(self._starts, number) - 1
        rows = self._read(place)
        try:
            return from_row(rows.slice(number - self._starts[place], 1).to_pylist()[0])
        except ValueError as error:
            raise UserError(f"{self.files[self._row_groups[place][0]]}: {error}; run `palate data check`") from error

    def __iter__(self) -> Iterator[Group]:
        return (self[index] for index in range(self._count))

    def columns(self, *names: str) -> Iterator[dict[str, Any]]:
        """Only these columns of every group, in the store's order; without `candidates` no picture is read."""
        for file in self.files:
            yield from read_columns(file, *names)

    def _read(self, place: int) -> Any:
        """The row group at `place` as an Arrow table, from this thread's last read where it is the same."""
        local = self._local
        if getattr(local, "place", None) != place:
            file_number, row_group = self._row_groups[place]
            if getattr(local, "file_number", None) != file_number:
                local.parquet = open_parquet(self.files[file_number])
                local.file_number = file_number
            parquet: pq.ParquetFile = local.parquet
            local.table = parquet.read_row_group(row_group, use_threads=False)
            local.place = place
        return local.table

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_local"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._local = threading.local()
