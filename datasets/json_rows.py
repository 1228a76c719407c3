"""Read the objects of a JSON list or a JSON Lines file one by one, without loading the file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from ..errors import UserError

_CHUNK = 1 << 20


def read_json_rows(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (number, object) for each object of `[{...}, {...}]` (number from 0) or JSON Lines (line number from 1).

    Published annotation files reach hundreds of megabytes in one list; `json.load` takes several times that in memory.
    Raises UserError naming the place of the fault.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            first = file.read(1)
            while first and first.isspace():
                first = file.read(1)
            if first == "[":
                yield from _array(file, path)
                return
        with open(path, encoding="utf-8-sig") as file:
            yield from _lines(file, path)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start})") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def _lines(file: TextIO, path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {number}: not JSON ({error.msg} at column {error.colno})") from error
        yield number, _object(row, path, f"line {number}")


def _array(file: TextIO, path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    decoder = json.JSONDecoder()
    buffer, at, number = "", 0, 0
    while True:
        while at < len(buffer) and (buffer[at].isspace() or buffer[at] == ","):
            at += 1
        if at < len(buffer) and buffer[at] == "]":
            return
        try:
            row, at = decoder.raw_decode(buffer, at)
        except json.JSONDecodeError as error:
            more = file.read(_CHUNK)  # the object goes on in the next chunk, or is broken
            if not more:
                raise UserError(f"{path}, item {number}: not JSON or cut off ({error.msg})") from error
            buffer, at = buffer[at:] + more, 0
            continue
        yield number, _object(row, path, f"item {number}")
        number += 1


def _object(row: Any, path: str | Path, place: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UserError(f"{path}, {place}: expected an object {{...}}, found {type(row).__name__}")
    return row
