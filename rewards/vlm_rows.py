"""Ask a vision-language model about many rows: in batches that memory holds, and no row at another's expense."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from PIL import Image

from ..errors import PalateError
from .pixels import to_rgb

T = TypeVar("T")


def ask_each(
    ask: Callable[[list[list[Image.Image]], list[str]], Sequence[T]],
    pictures: Sequence[Sequence[Image.Image]],
    texts: Sequence[str],
    batch_size: int,
) -> tuple[list[T | None], dict[int, str]]:
    """What `ask` says of each row, None where it can say nothing, and the reasons by row.

    Where a batch is refused or does not fit into memory, its halves are asked, down to single rows.

    Args:
        ask: pictures and texts of some rows -> one value for each.
        pictures: each row's pictures, of any mode; they are decoded batch by batch.
        texts: each row's question.
        batch_size: rows that are asked together.

    Raises:
        PalateError: memory does not hold a single row.
    """
    values: list[T | None] = [None] * len(texts)
    reasons: dict[int, str] = {}

    def settle(rows: list[tuple[int, list[Image.Image]]]) -> None:
        if not rows:
            return
        try:
            told = ask([images for _, images in rows], [texts[index] for index, _ in rows])
        except torch.OutOfMemoryError:
            if len(rows) == 1:
                raise PalateError(
                    "out of memory: there is no room for one question; load the model in bfloat16, or a smaller one"
                ) from None
        except (ValueError, OSError) as error:
            if len(rows) == 1:
                reasons[rows[0][0]] = _reason(error)
                return
        else:
            for (index, _), value in zip(rows, told, strict=True):
                values[index] = value
            return
        # Only here is the error forgotten, and with it the memory that its traceback holds.
        torch.cuda.empty_cache()
        middle = len(rows) // 2
        settle(rows[:middle])
        settle(rows[middle:])

    for start in range(0, len(texts), batch_size):
        rows: list[tuple[int, list[Image.Image]]] = []
        for index in range(start, min(start + batch_size, len(texts))):
            try:
                rows.append((index, [to_rgb(picture) for picture in pictures[index]]))
            except (ValueError, OSError) as error:
                reasons[index] = _reason(error)
        settle(rows)
    return values, reasons


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
