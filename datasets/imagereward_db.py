"""ImageRewardDB (Xu et al., arXiv 2304.05977): 4 to 9 pictures a prompt, ranked and rated on three aspects.

The published folder holds `metadata-{split}.parquet` (one row per picture: image_path, prompt_id, prompt, rank,
overall_rating, image_text_alignment_rating, fidelity_rating) and `images/{split}/{split}_N.zip`. Also read: the same
rows with the picture in a column `image`, the same rows as JSON, and the grouped JSON {"id", "prompt", "generations":
[paths], "ranking": [1 = best]}.
"""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import UserError
from .group import Group
from .json_rows import read_json_rows
from .parquet import file_rows
from .schema import media_bytes
from .skips import BAD_ROW, MISSING_FILE, SkipLog
from .sources import parquet_files

ASPECTS = {"overall": "overall_rating", "alignment": "image_text_alignment_rating", "fidelity": "fidelity_rating"}


def is_imagereward_row(names: Mapping[str, Any] | list[str]) -> bool:
    """Whether a row or a list of column names is per-picture or grouped ImageRewardDB."""
    have = set(names)
    per_picture = {"prompt_id", "prompt", "rank"} <= have and bool(have & {"image", "image_path"})
    return per_picture or {"prompt", "generations", "ranking"} <= have


def metadata_files(root: Path) -> list[Path]:
    """The published metadata tables in a folder."""
    return sorted(root.glob("metadata-*.parquet"))


def read_imagereward_db(
    source: str | Path, *, split: str | None = None, images: str | Path | None = None, log: SkipLog | None = None
) -> Iterator[Group]:
    """Yield one group per prompt_id, labels = minus the rank (equal ranks are ties), ratings as aspects.

    Pictures are read from `images` (default: the metadata's folder), extracted or straight from the zip files. A prompt
    with a missing picture is logged and skipped whole. Raises UserError: nothing there, or other columns.
    """
    log = SkipLog() if log is None else log
    for file in _tables(Path(source), split):
        root = Path(images) if images is not None else file.parent
        for prompt_id, rows in _prompts(file):
            try:
                yield _to_group(prompt_id, rows, root)
            except OSError as error:
                log.add(prompt_id, MISSING_FILE, str(error.filename or error))
            except (ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:  # BadZipFile: a damaged member
                log.add(prompt_id, BAD_ROW, str(error))


def _tables(source: Path, split: str | None) -> list[Path]:
    if source.is_file():
        return [source]
    found = metadata_files(source)
    lists = sorted(source.glob("*.json")) if split is None else [source / f"{split}.json"]
    if not found and not any(source.rglob("*.parquet")) and len(lists) == 1 and lists[0].is_file():
        return lists
    if not found:
        return parquet_files(source, split)
    if split is not None:
        found = [file for file in found if file.stem == f"metadata-{split}"]
    if len(found) != 1:
        names = ", ".join(file.stem.removeprefix("metadata-") for file in metadata_files(source))
        raise UserError(f"{source} holds the splits {names}: choose one with the option split, or give its files alone")
    return found


def _prompts(file: Path) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    """Yield (prompt_id, its rows). The first pass counts the rows of each prompt, so that the second can hand a prompt
    on as soon as it is complete: rows of a prompt need not be neighbours, and pictures are never all in memory."""
    counts = Counter(str(row["prompt_id"]) for row in _rows(file, ("prompt_id",)) if "prompt_id" in row)
    open_prompts: dict[str, list[Mapping[str, Any]]] = {}
    for number, row in enumerate(_rows(file)):
        if not is_imagereward_row(list(row)):
            raise UserError(f"{file}: not ImageRewardDB; it has the columns {', '.join(row)}")
        if "generations" in row:
            yield str(row.get("id", f"{file.stem}:{number}")), [row]
            continue
        prompt_id = str(row["prompt_id"])
        rows = open_prompts.setdefault(prompt_id, [])
        rows.append(row)
        if len(rows) == counts[prompt_id]:
            yield prompt_id, open_prompts.pop(prompt_id)


def _rows(file: Path, columns: tuple[str, ...] | None = None) -> Iterator[dict[str, Any]]:
    if file.suffix == ".parquet":
        return file_rows(file, columns=columns)
    return (row for _, row in read_json_rows(file))


def _to_group(prompt_id: str, rows: list[Mapping[str, Any]], root: Path) -> Group:
    first = rows[0]
    if "generations" in first:
        candidates = tuple(_read_picture(root, path) for path in first["generations"])
        labels = tuple(-rank for rank in first["ranking"])
        return Group(prompt_id, first["prompt"], candidates, labels, source="imagereward_db")
    candidates = tuple(media_bytes(row.get("image")) or _read_picture(root, row["image_path"]) for row in rows)
    aspects = {
        name: tuple(float("nan") if row[column] is None else row[column] for row in rows)
        for name, column in ASPECTS.items()
        if column in first
    }
    labels = tuple(-row["rank"] for row in rows)
    return Group(prompt_id, first["prompt"], candidates, labels, aspects=aspects, source="imagereward_db")


def _read_picture(root: Path, name: str) -> bytes:
    """`images/train/train_1/x.webp` from that file, or as member x.webp of `images/train/train_1.zip`."""
    path = root / name
    if path.is_file():
        return path.read_bytes()
    archive = path.parent.with_suffix(".zip")
    if archive.is_file():
        zipped, members = _open_zip(archive)
        if path.name in members:
            return zipped.read(members[path.name])
    raise FileNotFoundError(2, "no such picture", str(path))


@lru_cache(maxsize=4)
def _open_zip(archive: Path) -> tuple[zipfile.ZipFile, dict[str, str]]:
    try:
        zipped = zipfile.ZipFile(archive)
    except zipfile.BadZipFile as error:
        raise UserError(f"{archive} is not a whole zip file: download it again") from error
    return zipped, {name.rsplit("/", 1)[-1]: name for name in zipped.namelist()}
