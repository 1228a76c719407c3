"""HPD v2 (Wu et al., arXiv 2306.09341) and HPD v3 (Ma et al., arXiv 2508.03789): JSON lists beside folders of pictures.

v2 train.json  {"prompt", "file_path": [2 names], "human_preference": [1, 0], "user_hash"?}      1 = preferred
v2 test.json   {"prompt", "image_path": [names], "rank": [numbers], "raw_annotations"}          lower = better
v3             {"prompt", "path1", "path2", "model1"?, "model2"?}                              path1 is preferred
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError
from .group import Group
from .json_rows import read_json_rows
from .skips import BAD_ROW, MISSING_FILE, SkipLog


def is_hpd_row(row: Mapping[str, Any]) -> bool:
    """Whether a JSON object has one of the three shapes above."""
    keys = row.keys()
    return "prompt" in keys and (
        {"human_preference", "file_path"} <= keys or {"rank", "image_path"} <= keys or {"path1", "path2"} <= keys
    )


def read_hpd(
    source: str | Path, *, split: str | None = None, images: str | Path | None = None, log: SkipLog | None = None
) -> Iterator[Group]:
    """Yield one group per item of `source`, a JSON file, or the folder that holds `{split}.json`.

    Pictures are looked for in `images` if given, beside the JSON file, and in a folder named like it (train/, test/).
    Labels: the votes as they are (v2 train), minus the rank (v2 test), 1 and 0 (v3). An item with a missing picture is
    logged and skipped. Raises UserError: no such file, or items of another shape.
    """
    file = _json_file(Path(source), split)
    log = SkipLog() if log is None else log
    roots = [Path(images)] if images is not None else [file.parent, file.parent / file.stem]
    for number, row in read_json_rows(file):
        key = f"{file.stem}:{number}"
        if not is_hpd_row(row):
            raise UserError(f"{file}, item {number}: not an HPD item; it has {', '.join(row)}")
        try:
            names, labels = _names_and_labels(row)
            candidates = tuple(_find(name, roots).read_bytes() for name in names)
            yield Group(
                key,
                row["prompt"],
                candidates,
                labels,
                source="hpd",
                model=_models(row),
                rater=None if row.get("user_hash") is None else str(row["user_hash"]),
            )
        except OSError as error:
            log.add(key, MISSING_FILE, str(error.filename or error))
        except (ValueError, TypeError) as error:
            log.add(key, BAD_ROW, str(error))


def _names_and_labels(row: Mapping[str, Any]) -> tuple[list[str], tuple[float, ...]]:
    if "human_preference" in row:
        return row["file_path"], tuple(row["human_preference"])
    if "rank" in row:
        return row["image_path"], tuple(-rank for rank in row["rank"])
    return [row["path1"], row["path2"]], (1.0, 0.0)


def _models(row: Mapping[str, Any]) -> tuple[str | None, ...] | None:
    if "path1" not in row or "model1" not in row:
        return None
    return tuple(None if row.get(name) is None else str(row[name]) for name in ("model1", "model2"))


def _find(name: str, roots: list[Path]) -> Path:
    for root in roots:
        path = root / name
        if path.is_file():
            return path
    raise FileNotFoundError(2, "no such picture", str(roots[0] / name))


def _json_file(source: Path, split: str | None) -> Path:
    if source.is_file():
        return source
    found = sorted(file for file in source.glob("*.json") if split is None or file.stem == split)
    if len(found) != 1:
        have = ", ".join(file.name for file in sorted(source.glob("*.json"))) or "no JSON file"
        raise UserError(f"{source} holds {have}: choose one by its path, or with the option split (such as train)")
    return found[0]
