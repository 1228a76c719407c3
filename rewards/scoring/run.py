"""One process's way through its blocks: read, decode and prepare in threads, score, log."""

from __future__ import annotations

import hashlib
import itertools
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any

from ...datasets.ahead import ordered_map
from ...errors import PalateError
from ..pixels import shared_resizing
from ..scorer import Scorer
from ..texts import TextMemory, TextPlan, remembered_texts
from .asking import Mark, PixelBatch, input_of, judged, prompt_for, takes_batches, unusable
from .history import Answer, Column, History, Record
from .log import ScoreLog
from .picture_file import read_picture
from .rows import Row, Rows

if TYPE_CHECKING:
    from PIL import Image

_AHEAD = 4  # pictures a worker, about as long as three small networks take for a block


@dataclass(frozen=True, eq=False)
class _Block:
    """Rows that are scored together, and what the log knows of them."""

    number: int
    rows: tuple[Row, ...]
    known: History


@dataclass(frozen=True, eq=False)
class _Picture:
    """One picture of a block, the places of the rows that show it, and whether it is the block's last."""

    block: _Block
    places: tuple[int, ...]
    last: bool


@dataclass
class _Prepared:
    """What a worker made of a picture: answers that are known or were given at once, and networks' inputs.

    answers  by scorer and place
    left     by scorer, the places that have no answer yet
    inputs   by scorer, for these: what `input_of` gave
    """

    sha256: str
    answers: dict[str, dict[int, Answer]] = field(default_factory=dict)
    left: dict[str, list[int]] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)

    def fail(self, scorer: str, reason: str) -> None:
        """What is left for a scorer has no score."""
        self.answers[scorer] |= dict.fromkeys(self.left[scorer], Answer(reason=reason))
        self.left[scorer] = []


class ScoringRun:
    """Goes through the blocks of one shard.

    new, failures   by scorer: scores computed, rows without one
    reasons         the first few rows that failed: what each is called, and why
    """

    def __init__(
        self, scorers: Sequence[Scorer], log: ScoreLog, batch_size: int, upright: bool, texts: TextPlan
    ) -> None:
        self.scorers, self.log, self.batch_size, self.upright = scorers, log, batch_size, upright
        self.sizes = {scorer.name: batch_size for scorer in scorers}
        self.batch, self.texts = PixelBatch(), TextMemory(texts)
        self.locks = {scorer.name: Lock() for scorer in scorers}
        self.new = {scorer.name: 0 for scorer in scorers}
        self.failures = {scorer.name: 0 for scorer in scorers}
        self.reasons: list[tuple[str, str]] = []

    def go(self, rows: Rows, shard: tuple[int, int], workers: int) -> Iterator[int]:
        """Score block by block; yields how many rows each had."""
        of_block = []
        for picture, prepared in ordered_map(self.prepare, self.pictures(rows, shard), workers, _AHEAD):
            of_block.append((picture, prepared))
            if picture.last:  # before the next block's first is asked for, which may break off the run
                yield self.finish(of_block)
                of_block = []

    def pictures(self, rows: Rows, shard: tuple[int, int]) -> Iterator[_Picture]:
        """The pictures of this shard's blocks; one that several rows of a block show comes once."""
        stream = rows.read()
        for number in itertools.count():
            chunk = tuple(itertools.islice(stream, self.batch_size))
            if not chunk:
                return
            if number % shard[1] != shard[0]:
                continue
            block = _Block(number, chunk, self.log.history(number))
            places: dict[Any, list[int]] = {}
            for place, row in enumerate(chunk):
                places.setdefault(row.data if row.data is not None else ("fault", place), []).append(place)
            for count, same in enumerate(places.values(), start=1):
                yield _Picture(block, tuple(same), last=count == len(places))

    def prepare(self, picture: _Picture) -> _Prepared:
        """Read, decode and preprocess one picture; in a worker's thread."""
        block = picture.block
        row = block.rows[picture.places[0]]
        data, fault = _read(row)
        result = _Prepared(hashlib.sha256(data).hexdigest() if data is not None else "")
        for scorer in self.scorers:
            self.recall(scorer, picture, result)
        if not any(result.left.values()):
            return result
        decoded: Image.Image | None = None
        if data is not None:
            try:
                decoded = read_picture(data, self.upright)
            except ValueError as error:
                fault = str(error)
        if decoded is None:
            for scorer in self.scorers:
                result.fail(scorer.name, fault or "no image")
            return result
        with shared_resizing(decoded):
            for scorer in self.scorers:
                if result.left[scorer.name]:
                    self.apply(scorer, block, decoded, result)
        return result

    def recall(self, scorer: Scorer, picture: _Picture, result: _Prepared) -> None:
        """Fill in what the log knows, and note the places that are left; what failed in an earlier run is."""
        name, block = scorer.name, picture.block
        answers, left = {}, []
        for place in picture.places:
            row = block.rows[place]
            known = block.known.find(name, place, result.sha256, row.prompt)
            if known.value is None:
                known = self.log.reused(name, result.sha256, row.prompt)
            if known.value is not None:
                answers[place] = known
            elif row.fault is None and (reason := unusable(scorer, row.prompt)):
                answers[place] = Answer(reason=reason)
            else:
                left.append(place)
        result.answers[name], result.left[name] = answers, left

    def apply(self, scorer: Scorer, block: _Block, decoded: Image.Image, result: _Prepared) -> None:
        """Preprocess for a network, or score at once where there is none."""
        name = scorer.name
        if takes_batches(scorer.reward):
            try:
                result.inputs[name] = input_of(scorer.reward, decoded)
            except (ValueError, OSError) as error:
                result.fail(name, str(error) or type(error).__name__)
            return
        scored: dict[str, Answer] = {}
        for place in result.left[name]:
            prompt = prompt_for(scorer, block.rows[place].prompt)
            if prompt not in scored:
                with self.locks[name]:
                    shown = input_of(scorer.reward, decoded)
                    scored[prompt] = self.answer(scorer, judged(scorer.reward, [prompt], [shown])[0])
            result.answers[name][place] = scored[prompt]
        result.left[name] = []

    def answer(self, scorer: Scorer, mark: Mark) -> Answer:
        """A mark that was computed just now."""
        if isinstance(mark, str):
            return Answer(reason=mark)
        self.new[scorer.name] += 1
        return Answer(mark, versions=self.log.terms[scorer.name].versions)

    def finish(self, done: list[tuple[_Picture, _Prepared]]) -> int:
        """Run the networks on a block and log it."""
        block = done[0][0].block
        shas = {place: prepared.sha256 for picture, prepared in done for place in picture.places}
        columns = {}
        for scorer in self.scorers:
            name = scorer.name
            answers = {place: answer for _, prepared in done for place, answer in prepared.answers[name].items()}
            answers |= self.forward(scorer, block, done)
            ordered = [answers[place] for place in range(len(block.rows))]
            column = columns[name] = Column.of(self.log.terms[name].settings, ordered)
            self.failures[name] += len(column.errors)
            self.note(block, column.errors)
        rows = tuple(
            {"key": row.key, "image": row.image, "prompt": row.prompt, "sha256": shas[place]}
            for place, row in enumerate(block.rows)
        )
        before = block.known.newest()
        changed = {
            name: column
            for name, column in columns.items()
            if before is None or before.rows != rows or before.columns.get(name) != column
        }
        if changed:
            self.log.append(Record(self.log.plan, block.number, rows, changed))
        return len(rows)

    def forward(self, scorer: Scorer, block: _Block, done: Iterable[tuple[_Picture, _Prepared]]) -> dict[int, Answer]:
        """Score what is left with a network, by place; the same bytes with the same prompt once."""
        pairs: dict[tuple[str, str], list[int]] = {}
        inputs: dict[str, Any] = {}
        for _, prepared in done:
            for place in prepared.left[scorer.name]:
                pairs.setdefault((prepared.sha256, prompt_for(scorer, block.rows[place].prompt)), []).append(place)
                inputs[prepared.sha256] = prepared.inputs[scorer.name]
        # In the order of the rows, whatever the workers' order was.
        keys = sorted(pairs, key=lambda key: pairs[key][0])
        marks = self.halving(scorer, [prompt for _, prompt in keys], [inputs[sha256] for sha256, _ in keys])
        answers: dict[int, Answer] = {}
        for key, mark in zip(keys, marks, strict=True):
            answers |= dict.fromkeys(pairs[key], self.answer(scorer, mark))
        return answers

    def halving(self, scorer: Scorer, prompts: list[str], inputs: list[Any]) -> list[Mark]:
        """Scores, or why there is none, in batches as large as memory holds."""
        import torch

        marks: list[Mark] = []
        while len(marks) < len(prompts):
            span = slice(len(marks), len(marks) + self.sizes[scorer.name])
            try:
                with remembered_texts(self.texts):
                    marks += judged(scorer.reward, prompts[span], inputs[span], self.batch)
            except torch.OutOfMemoryError:
                if self.sizes[scorer.name] == 1:
                    raise PalateError(
                        f"out of memory: {scorer.name} has no room for a single picture; use fewer scorers at once, "
                        "or weights in bfloat16"
                    ) from None
                torch.cuda.empty_cache()
                self.sizes[scorer.name] = max(1, min(self.sizes[scorer.name], len(prompts)) // 2)
        return marks

    def note(self, block: _Block, errors: Mapping[int, str], keep: int = 20) -> None:
        """Remember the first few failures, each row once."""
        for place, reason in errors.items():
            told = (block.rows[place].image or block.rows[place].key, reason)
            if len(self.reasons) < keep and told not in self.reasons:
                self.reasons.append(told)


def _read(row: Row) -> tuple[bytes | None, str | None]:
    """The bytes, or why there are none."""
    if row.fault is not None or row.data is None:
        return None, row.fault or "no image"
    if isinstance(row.data, bytes):
        return row.data, None
    try:
        if not stat.S_ISREG(row.data.stat().st_mode):  # a pipe would be waited for
            return None, "not a file"
        return row.data.read_bytes(), None
    except FileNotFoundError:
        return None, "file not found"
    except (OSError, ValueError) as error:  # a directory, no permission; a path with a NUL in it
        return None, getattr(error, "strerror", None) or str(error)
