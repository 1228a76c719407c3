"""What a user names (a file, a folder, a pattern, a hub id) as a list of Parquet files."""

from __future__ import annotations

import glob
import re
from pathlib import Path

from ..errors import UserError

# train-00000-of-00645-b66ac786bf6fb553.parquet: the name that `datasets` gives to a shard.
_SHARD_NAME = re.compile(r"^(?P<split>[A-Za-z_.]+?)-\d{4,}(-of-\d+)?(-[0-9a-f]+)?$")
_SPLIT_FOLDERS = frozenset({"train", "validation", "valid", "val", "dev", "test", "validation_unique", "test_unique"})
_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")


def looks_like_hub_id(source: str | Path) -> bool:
    """Whether `source` has the form owner/name and is nothing on this disk."""
    return isinstance(source, str) and bool(_HUB_ID.match(source)) and not Path(source).exists()


def parquet_files(source: str | Path, split: str | None = None) -> list[Path]:
    """The Parquet files of a file, a folder (searched in depth) or a glob pattern, sorted by name.

    `split` keeps the files of that split, told by their name (`train-00000-of-…`) or folder. Raises UserError: nothing
    there, or files of several splits and none chosen, since mixing train with test is never what was meant.
    """
    path = Path(source)
    if path.is_dir():
        files = [file for file in path.rglob("*.parquet") if not _is_hidden(file.relative_to(path))]
    elif path.is_file():
        files = [path]
    else:
        files = [Path(name) for name in glob.glob(str(source), recursive=True) if Path(name).is_file()]
    if not files:
        raise UserError(f"no Parquet files at {str(source)!r}: give a file, a folder that holds some, or a pattern")
    splits = {file: split_name(file) for file in sorted(files)}
    found = sorted({name for name in splits.values() if name})
    if split is not None and not path.is_file():
        chosen = [file for file, name in splits.items() if name == split]
        if not chosen:
            have = f"it holds {', '.join(found)}" if found else "its file names tell of no splits"
            raise UserError(f"no split {split!r} at {str(source)!r}: {have}")
        return chosen
    if len(found) > 1:
        held = f"{str(source)!r} holds the splits {', '.join(found)}"
        raise UserError(f"{held}: choose one with the option split, or give its files alone")
    return list(splits)


def split_name(file: Path) -> str | None:
    """The split that a file's name or folder tells of, or None."""
    match = _SHARD_NAME.match(file.stem)
    if match and match["split"] != "groups":  # palate's own shards, whatever the split
        return match["split"]
    return file.parent.name if file.parent.name in _SPLIT_FOLDERS else None


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
