"""Pictures of a subject, as a folder or a list, for rewards that ask whether a picture shows the same one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ..datasets.images import IMAGE_SUFFIXES
from ..errors import UserError
from .scoring.picture_file import read_picture


def open_references(source: str | Path | Sequence[str | Path | Image.Image]) -> list[Image.Image]:
    """The pictures that directly lie in a folder, by name, or those of a list of files and pictures.

    Files are turned as their EXIF says.

    Raises:
        UserError: there are none, or one cannot be read.
    """
    if isinstance(source, (str, Path)):
        path = Path(source).expanduser()
        if not path.is_dir():
            files: Sequence[str | Path | Image.Image] = [path]
        else:
            inside = sorted(path.iterdir())
            files = [file for file in inside if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")]
            if not files:
                raise UserError(f"{path} holds no pictures; give a folder with a few pictures of the subject")
    else:
        files = source
    if not files:
        raise UserError("there are no references; give a folder or a list with a few pictures of the subject")
    return [file if isinstance(file, Image.Image) else _read(Path(file).expanduser()) for file in files]


def _read(file: Path) -> Image.Image:
    try:
        return read_picture(file.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{file} does not exist; give a folder or a list with pictures of the subject") from None
    except (OSError, ValueError) as error:
        raise UserError(f"the reference {file} cannot be read ({error}); replace or remove it") from None
