"""What is to be scored, as a stream of rows: folders, patterns, manifests (JSONL, CSV, Parquet) and groups."""

from __future__ import annotations

import glob
import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...datasets.images import IMAGE_SUFFIXES
from ...datasets.open import open_groups
from ...datasets.skips import SkipLog
from ...errors import UserError
from .manifest import FAULT, TABLES, columns_of, holds_groups, image_column, prompt_column, table_rows

GENERATED = "images.jsonl"  # the list that `palate generate` writes beside its pictures
_OWN = re.compile(r"log-\d+-of-\d+\.jsonl|scores\.(parquet|jsonl|meta\.json)")  # what scoring writes into a folder
_KEY = ("key", "id")
_LISTED = "give a folder, a picture, a pattern, a manifest (JSONL, CSV, Parquet) or groups"


@dataclass(frozen=True)
class Row:
    """One picture to score.

    key     names the row in tables
    image   what the source calls the picture: a path relative to the source, or `group#candidate`
    prompt  None where none is known
    data    where the bytes are, or the bytes; None where the manifest's row is at fault
    fault   why the row cannot be read
    """

    key: str
    image: str
    prompt: str | None
    data: Path | bytes | None
    fault: str | None = None


@dataclass(frozen=True)
class Rows:
    """Rows that can be read several times, always in the same order.

    read         starts the stream; raises UserError for a file that is no table
    has_prompts  whether the source has prompts at all
    skipped      groups that could not be read, in the first pass
    folder       of groups, as one of which a table in it would be read
    unread       the table beside pictures, that is no list of them
    tables       other tables among pictures, of which none is read unasked
    """

    source: str
    read: Callable[[], Iterator[Row]]
    has_prompts: bool
    skipped: SkipLog = field(default_factory=SkipLog)
    folder: Path | None = None
    unread: Path | None = None
    tables: tuple[Path, ...] = ()

    def how_to_prompt(self, otherwise: str) -> str:
        """What a message says to do where prompts are missing: `otherwise`, and which tables may be meant."""
        if not self.tables:
            return otherwise
        named, more = ", ".join(map(str, self.tables[:3])), len(self.tables) - 3
        return f"{otherwise}; tables there that are not read unasked: {named}{f' and {more} more' if more > 0 else ''}"


def open_rows(source: str | Path, prompts: str | Path | None = None) -> Rows:
    """Find out what `source` is.

    A folder with `images.jsonl` is what it lists, and so is one with a single table, unless that is neither a manifest
    nor groups and there are pictures; another one is all pictures in it and below, behind links too, sorted by path,
    numbers as numbers (2.png before 10.png). What an earlier scoring wrote there does not count. A table with a column
    `image`, or `file_name` as in ImageFolder's `metadata.csv`, is a manifest, with paths relative to it; other tables
    and Parquet files are groups.

    Args:
        prompts: a manifest's column (`prompt`, `caption` or `text` where None), or a file: a text with one prompt for
            each picture in order, a JSON object from picture to prompt, or a manifest.

    Raises:
        UserError: the source or the prompts do not exist or are of no known form, or there are no pictures.
    """
    path = Path(source).expanduser()
    file = Path(prompts).expanduser() if prompts is not None and Path(prompts).expanduser().is_file() else None
    column = None if file else (None if prompts is None else str(prompts))
    rows = _open(path, str(source), column)
    return rows if file is None else _with_prompts(rows, file)


def _open(path: Path, source: str, column: str | None) -> Rows:
    if path.is_dir():
        if (path / GENERATED).is_file():
            return _table(path / GENERATED, column)
        below = [file for file in _below(path) if not _OWN.fullmatch(file.name)]
        files = sorted((file for file in below if _is_picture(file) and _is_row(file)), key=_in_order)
        tables = sorted(file for file in below if file.parent == path and file.suffix.lower() in TABLES)
        alone = tables[0] if len(tables) == 1 and tables[0].suffix.lower() != ".json" else None
        if alone is not None and (not files or column is not None or _lists(alone)):
            return _table(alone, column)
        if files:
            others = sorted(file for file in below if file.suffix.lower() in TABLES and file != alone)
            return replace(_pictures(source, files, path, column, others), unread=alone)
        if tables or any(file.suffix == ".parquet" for file in below):
            return replace(_groups(source), folder=path)
        raise UserError(f"{source} holds no images; {_LISTED}")
    if path.is_file():
        if path.suffix.lower() in TABLES:
            return _table(path, column)
        return _pictures(source, [path], path.parent, column)
    if glob.has_magic(source):
        found = sorted((Path(name) for name in glob.glob(str(path), recursive=True)), key=_in_order)
        files = [file for file in found if _is_picture(file) and _is_row(file)]
        if files:
            root = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), path.parts))
            return _pictures(source, files, root, column)
        if any(file.suffix == ".parquet" for file in found):
            return _groups(source)
        raise UserError(f"no images match {source!r}; {_LISTED}")
    raise UserError(f"{source} does not exist; {_LISTED}")


def _in_order(file: Path) -> list[tuple[int, int, str]]:
    """As a person counts: 2.png before 10.png."""
    parts = re.split(r"(\d+)", file.as_posix())
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts]


def _below(folder: Path) -> Iterator[Path]:
    """The files in a folder and below, linked folders included, without what is hidden."""
    above: dict[str, frozenset[str]] = {str(folder): frozenset()}
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        around = above.pop(root)
        if real in around:  # a link back up
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        above |= {os.path.join(root, name): around | {real} for name in folders}
        yield from (Path(root, name) for name in names if not name.startswith("."))


def _is_picture(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")


def _is_row(file: Path) -> bool:
    """A file, or a link to none: that is a row without a picture, and not left out without a word."""
    return file.is_file() or (file.is_symlink() and not file.exists())


def _pictures(source: str, files: list[Path], root: Path, column: str | None, tables: Sequence[Path] = ()) -> Rows:
    def read() -> Iterator[Row]:
        for file in files:
            name = file.relative_to(root).as_posix()
            yield Row(name, name, None, file)

    rows = Rows(source, read, has_prompts=False, tables=tuple(tables))
    if column is not None:
        what = rows.how_to_prompt("give a file")
        raise UserError(f"the prompts {column!r} are no file, and {source} has no columns; {what}")
    return rows


def _groups(source: str) -> Rows:
    log = SkipLog()
    open_groups(source).close()  # type: ignore[attr-defined]  # tells now what it cannot read

    def read() -> Iterator[Row]:
        current = SkipLog()
        for group in open_groups(source, log=current):
            for number, data in enumerate(group.candidates):
                name = f"{group.key}#{number}"
                yield Row(name, name, group.prompt if group.prompt.strip() else None, data)
        log.counts, log.examples = current.counts, current.examples

    return Rows(source, read, has_prompts=True, skipped=log)


def _lists(file: Path) -> bool:
    """Whether a table lists pictures or groups, or might have done before it was cut off."""
    columns = columns_of(file)
    return not columns or image_column(file, columns) is not None or holds_groups(file, columns)


def _table(file: Path, column: str | None) -> Rows:
    columns = columns_of(file)
    image = image_column(file, columns) or ""
    if columns and not image:
        if column is not None:
            raise UserError(f"{file} has no column 'image', and groups bring their own prompts; leave the prompts out")
        if not holds_groups(file, columns):
            named = f"no column 'image' or 'file_name' (it has {_join(columns)})"
            raise UserError(f"{file} has {named} and is no list of groups: name the column of the pictures image")
        return _groups(str(file))
    if next(table_rows(file), None) is None:
        raise UserError(f"{file} holds no images: it has no rows")
    if column is not None and column not in columns:
        raise UserError(f"the prompts {column!r} are neither a file nor a column of {file}, which has {_join(columns)}")
    prompt = column or prompt_column(columns)

    def read() -> Iterator[Row]:
        for place, row in table_rows(file):
            text = None if prompt is None else row.get(prompt)
            yield _row(row, row.get(image), text, f"{file.name}, {place}", file.parent)

    return Rows(str(file), read, has_prompts=prompt is not None)


def _row(row: Mapping[str, Any], image: Any, text: Any, place: str, root: Path) -> Row:
    if FAULT in row:
        return Row(place, str(image or ""), None, None, f"{place}: {row[FAULT]}")
    key = next((str(row[name]) for name in _KEY if row.get(name) is not None), None)
    data: Any = None
    if isinstance(image, bytes):
        image = {"bytes": image}
    if isinstance(image, dict):  # as `datasets` stores pictures in Parquet
        data, image = image.get("bytes"), str(image.get("path") or key or place)
    if text is not None and not isinstance(text, str):
        return Row(key or place, str(image or ""), None, None, f"{place}: the prompt is a {type(text).__name__}")
    text = text if text and text.strip() else None
    if isinstance(data, bytes):
        return Row(key or image, image, text, data)
    if not isinstance(image, str) or not image:
        return Row(key or place, "", text, None, f"{place}: no image")
    return Row(key or image, image, text, root / image)


def _with_prompts(rows: Rows, file: Path) -> Rows:
    if file.suffix.lower() not in TABLES:
        lines = _lines(file)
        count = sum(1 for _ in rows.read())
        while len(lines) > count and lines[-1] is None:  # blank lines at the end
            lines.pop()
        if count != len(lines):
            blank = " (blank lines between them count)" if None in lines else ""
            raise UserError(
                f"{file} has {len(lines)} prompts{blank} and {rows.source} {count} images; give one for each"
            )

        def read() -> Iterator[Row]:
            for row, prompt in zip(rows.read(), lines, strict=True):
                yield Row(row.key, row.image, prompt, row.data, row.fault)

        return replace(rows, read=read, has_prompts=True)
    prompts = _mapping(file)
    if not prompts:
        raise UserError(f"{file} holds no prompts: no row has both an image and a prompt")
    shared = Counter(Path(row.image).name for row in rows.read())

    def found(row: Row) -> str | None:
        name = Path(row.image).name  # stands for the picture where no other one is called so
        return prompts.get(row.image, prompts.get(name) if shared[name] == 1 else None)

    first = next(rows.read(), None)
    if first is not None and all(found(row) is None for row in rows.read()):
        raise UserError(
            f"{file} has a prompt for none of the pictures of {rows.source}: it names {next(iter(prompts))!r}, and "
            f"they are called as {first.image!r}"
        )

    def read_named() -> Iterator[Row]:
        for row in rows.read():
            prompt = found(row)
            yield Row(row.key, row.image, row.prompt if prompt is None else prompt, row.data, row.fault)

    return replace(rows, read=read_named, has_prompts=True)


def _lines(file: Path) -> list[str | None]:
    """A text file's prompts; a blank line between them is a picture without one."""
    try:
        text = file.read_text(encoding="utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise UserError(f"{file} is not a text file in UTF-8 with one prompt a line") from None
    return [line.strip() or None for line in text.removesuffix("\n").split("\n")] if text.strip() else []


def _mapping(file: Path) -> dict[str, str]:
    """Prompts by picture, from a JSON object or a table."""
    if file.suffix.lower() == ".json":
        try:
            loaded = json.loads(file.read_text(encoding="utf-8-sig"))
        except ValueError as error:
            raise UserError(f"{file} is not JSON ({error})") from error
        if isinstance(loaded, dict) and any(isinstance(value, str) for value in loaded.values()):
            return _by_picture(file, loaded.items())
    columns = columns_of(file)
    name, prompt = image_column(file, columns), prompt_column(columns)
    if name is None or prompt is None:
        raise UserError(f"{file} needs the columns image (or file_name) and prompt; it has {_join(columns)}")
    return _by_picture(file, ((row.get(name), row.get(prompt)) for _, row in table_rows(file)))


def _by_picture(file: Path, pairs: Iterable[tuple[Any, Any]]) -> dict[str, str]:
    prompts: dict[str, str] = {}
    for image, text in pairs:
        if image is None or text is None:
            continue
        if not isinstance(text, str):
            raise UserError(f"{file}: the prompt of {image!r} is a {type(text).__name__}; give a text")
        if text.strip() and prompts.setdefault(str(image), text) != text:
            raise UserError(f"{file} has two prompts for {image!r}, {prompts[str(image)]!r} and {text!r}; leave one")
    return prompts


def _join(columns: list[str]) -> str:
    return ", ".join(columns) or "none"
