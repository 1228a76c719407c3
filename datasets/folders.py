"""Two folders with equal file names, winners and losers: the layout that most hand-made sets have.

    set/w/0001.png   set/l/0001.png   set/w/0001.txt  (the prompt)

The folders may also be called winners/losers, win/lose, chosen/rejected or good/bad. Instead of the text files, a
`captions.jsonl` (or `metadata.jsonl`) in the set's folder may give {"file_name": "0001.png", "prompt": "..."}.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path

from ..errors import UserError
from .group import Group
from .images import IMAGE_SUFFIXES
from .json_rows import read_json_rows
from .skips import BAD_ROW, MISSING_FILE, NO_PARTNER, NO_PROMPT, SkipLog
from .table import PROMPT_COLUMNS

FOLDER_NAMES = (("w", "l"), ("winners", "losers"), ("win", "lose"), ("chosen", "rejected"), ("good", "bad"))
_CAPTION_FILES = ("captions.jsonl", "metadata.jsonl")


def find_folders(root: Path) -> tuple[Path, Path] | None:
    """The winners' and the losers' folder inside `root`, or None."""
    for winner, loser in FOLDER_NAMES:
        if (root / winner).is_dir() and (root / loser).is_dir():
            return root / winner, root / loser
    return None


def read_folders(root: str | Path, *, log: SkipLog | None = None) -> Iterator[Group]:
    """Yield a pair (winner first, labels 1 and 0) for each name that both folders hold, in the order of names.

    Names are compared without their suffix (a PNG may meet a JPEG), in subfolders too, and in one Unicode form, since
    macOS writes é as two characters. A picture without partner or prompt is logged and skipped. Raises UserError: no
    such folders, two pictures of one name, or no prompt for any picture.
    """
    root, log = Path(root), SkipLog() if log is None else log
    folders = find_folders(root)
    if folders is None:
        names = " or ".join("/".join(pair) for pair in FOLDER_NAMES)
        raise UserError(f"{root} holds no two folders of winners and losers: name them {names}")
    winners, losers = _pictures(folders[0]), _pictures(folders[1])
    captions = _captions(root)
    found_prompt = False
    for name in sorted(winners.keys() | losers.keys()):
        if name not in winners or name not in losers:
            log.add(name, NO_PARTNER, f"only in {(folders[0] if name in winners else folders[1]).name}/")
            continue
        prompt = _prompt(winners[name], name, captions)
        if prompt is None:
            log.add(name, NO_PROMPT, f"no {name}.txt beside the winner and no line in a captions.jsonl")
            continue
        found_prompt = True
        try:
            pictures = winners[name].read_bytes(), losers[name].read_bytes()
            yield Group(name, prompt, pictures, (1.0, 0.0), source=root.name or None)
        except OSError as error:
            log.add(name, MISSING_FILE, f"{error.filename}: {error.strerror}")
        except ValueError as error:
            log.add(name, BAD_ROW, str(error))
    if not found_prompt and winners.keys() & losers.keys():
        raise UserError(
            f"none of the pairs in {root} has a prompt: put NAME.txt beside each winner NAME.png, or write "
            f'{root / _CAPTION_FILES[0]} with lines {{"file_name": "NAME.png", "prompt": "..."}}'
        )


def _pictures(folder: Path) -> dict[str, Path]:
    """Name without suffix -> file, for all pictures in depth."""
    pictures: dict[str, Path] = {}
    for path in folder.rglob("*"):
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
            continue
        name = _name(path.relative_to(folder))
        if name in pictures:
            raise UserError(f"{pictures[name]} and {path} differ only in their suffix: rename or remove one of them")
        pictures[name] = path
    return pictures


def _name(path: Path) -> str:
    return unicodedata.normalize("NFC", path.with_suffix("").as_posix())


def _captions(root: Path) -> dict[str, str]:
    captions: dict[str, str] = {}
    for file in (root / name for name in _CAPTION_FILES):
        if not file.exists():
            continue
        for number, row in read_json_rows(file):
            prompt = next((row[column] for column in PROMPT_COLUMNS if isinstance(row.get(column), str)), None)
            if not isinstance(row.get("file_name"), str) or prompt is None:
                raise UserError(
                    f"{file}, line {number}: expected file_name and prompt, found {', '.join(row) or 'nothing'}"
                )
            captions[_name(Path(row["file_name"]))] = prompt
    return captions


def _prompt(winner: Path, name: str, captions: dict[str, str]) -> str | None:
    text = winner.with_suffix(".txt")
    if text.exists():
        try:
            return text.read_text(encoding="utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise UserError(f"{text} is not UTF-8 text: save it as UTF-8") from error
    return captions.get(name, captions.get(f"{winner.parent.name}/{name}"))
