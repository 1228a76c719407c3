"""Read a CSV or TSV file row by row, whatever stands between its cells."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..errors import UserError


def read_csv_rows(
    file: Path, on_header: Callable[[Sequence[str]], None] | None = None
) -> Iterator[tuple[int, dict[str, str | None], str | None]]:
    """Yield (line, cells by column, fault) for each row after the header; cells that are not there are None.

    Columns are parted by tabs in a `.tsv`, else by what the header has most of: commas, semicolons or tabs. A row with
    more cells than the header has columns is at fault, most often for a comma in a text without quotes.

    Args:
        on_header: called with the columns before the first row, if there is a header.

    Raises UserError for what is not UTF-8, or no table.
    """
    csv.field_size_limit(sys.maxsize)  # the default of 128 KiB is a limit on a prompt with embedded text
    try:
        with open(file, encoding="utf-8-sig", newline="") as lines:
            header = lines.readline()
            lines.seek(0)
            tabs = file.suffix.lower() == ".tsv"
            # strict: a quote that is never closed would take the rest of the file into one cell
            reader = csv.DictReader(lines, delimiter="\t" if tabs else max(",;\t", key=header.count), strict=True)
            if reader.fieldnames is None:
                return
            if on_header is not None:
                on_header(reader.fieldnames)
            for row in reader:
                surplus: list[str] = row.pop(None, [])  # type: ignore[call-overload]
                fault = None
                if any(text.strip() for text in surplus):
                    columns = len(reader.fieldnames)
                    fault = f"{columns + len(surplus)} cells for {columns} columns: is there a text without quotes?"
                yield reader.line_num, row, fault
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 text: save it as UTF-8") from error
    except csv.Error as error:
        raise UserError(f"{file} is not a readable table: {error}; is there a quote that is not closed?") from error
