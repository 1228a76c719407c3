"""One process's way through its blocks: read, decode and prepare in threads, score, log."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any

from ...datasets.ahead import ordered_map
from ...errors import PalateError
from ..pixels import shared_resizing
from ..reward import BatchedReward, Failure, PixelReward, Reward
from ..scorer import Scorer
from .log import Column, History, Record, ScoreLog
from .picture_file import read_picture
from .rows import Row, Rows

if TYPE_CHECKING:
    from PIL import Image

NO_PROMPT = "no prompt"
NOT_UNICODE = "the prompt is not valid Unicode"


@dataclass(frozen=True, eq=False)
class _Block:
    """Rows that are scored together, and what the log knows of them."""

    number: int
    rows: tuple[Row, ...]
    known: History


@dataclass(frozen=True, eq=False)
class _Picture:
    """One picture of a block, and the places of the rows that show it."""

    block: _Block
    places: tuple[int, ...]


@dataclass
class _Prepared:
    """What a worker made of a picture: scores that are known or were computed at once, and networks' inputs.

    values, errors  by scorer and place
    open            by scorer, the places that have neither value nor error
    inputs          by scorer, for the open places: prepared pixels `[3, h, w]`, or the picture
    """

    sha256: str
    values: dict[str, dict[int, float]] = field(default_factory=dict)
    errors: dict[str, dict[int, str]] = field(default_factory=dict)
    open: dict[str, list[int]] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)


class ScoringRun:
    """Goes through the blocks of one shard.

    new, failures   by scorer: scores computed, rows without one
    reasons         the first few rows that failed: what each is called, and why
    """

    def __init__(self, scorers: Sequence[Scorer], log: ScoreLog, batch_size: int, upright: bool) -> None:
        self.scorers, self.log, self.batch_size, self.upright = scorers, log, batch_size, upright
        self.sizes = {scorer.name: batch_size for scorer in scorers}
        self.locks = {scorer.name: Lock() for scorer in scorers}
        self.new = {scorer.name: 0 for scorer in scorers}
        self.failures = {scorer.name: 0 for scorer in scorers}
        self.reasons: list[tuple[str, str]] = []

    def go(self, rows: Rows, shard: tuple[int, int], workers: int) -> Iterator[int]:
        """Score block by block; yields how many rows each had."""
        done = ordered_map(self.prepare, self.pictures(rows, shard), workers)
        for _, of_block in itertools.groupby(done, key=lambda pair: pair[0].block.number):
            yield self.finish(list(of_block))

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
            for same in places.values():
                yield _Picture(block, tuple(same))

    def prepare(self, picture: _Picture) -> _Prepared:
        """Read, decode and preprocess one picture; in a worker's thread."""
        block = picture.block
        row = block.rows[picture.places[0]]
        data, fault = _read(row)
        result = _Prepared(hashlib.sha256(data).hexdigest() if data is not None else "")
        for scorer in self.scorers:
            self.recall(scorer, picture, result)
        if not any(result.open.values()):
            return result
        decoded: Image.Image | None = None
        if data is not None:
            try:
                decoded = read_picture(data, self.upright)
            except ValueError as error:
                fault = str(error)
        if decoded is None:
            for scorer in self.scorers:
                result.errors[scorer.name].update(dict.fromkeys(result.open[scorer.name], fault or "no image"))
                result.open[scorer.name] = []
            return result
        with shared_resizing():
            for scorer in self.scorers:
                if result.open[scorer.name]:
                    self.apply(scorer, block, decoded, result)
        return result

    def recall(self, scorer: Scorer, picture: _Picture, result: _Prepared) -> None:
        """Fill in what the log knows, and note the places that are open; what failed in an earlier run is."""
        name, block = scorer.name, picture.block
        values, errors, open_places = {}, {}, []
        for place in picture.places:
            row = block.rows[place]
            value, _ = block.known.find(name, place, result.sha256, row.prompt)
            if value is None:
                value = self.log.elsewhere(name, result.sha256, row.prompt)
            if value is not None:
                values[place] = value
            elif row.fault is None and (reason := _unusable(row.prompt, scorer.needs_prompts)):
                errors[place] = reason
            else:
                open_places.append(place)
        result.values[name], result.errors[name], result.open[name] = values, errors, open_places

    def apply(self, scorer: Scorer, block: _Block, decoded: Image.Image, result: _Prepared) -> None:
        """Preprocess for a network, or score at once where there is none."""
        name, places = scorer.name, result.open[scorer.name]
        if isinstance(scorer.reward, BatchedReward):
            result.inputs[name] = decoded
            return
        if isinstance(scorer.reward, PixelReward):
            try:
                result.inputs[name] = scorer.reward.prepare(decoded)
            except (ValueError, OSError) as error:
                result.errors[name].update(dict.fromkeys(places, str(error) or type(error).__name__))
                result.open[name] = []
            return
        scored: dict[str, tuple[float | None, str]] = {}
        for place in places:
            prompt = block.rows[place].prompt or ""
            if prompt not in scored:
                failures: list[Failure] = []
                with self.locks[name]:
                    value = float(scorer.reward.score([prompt], [decoded], failures)[0])
                    self.new[name] += 1
                reason = failures[0].reason if failures else f"the reward returned {value}"
                scored[prompt] = (value if math.isfinite(value) else None, reason)
            value, reason = scored[prompt]
            if value is None:
                result.errors[name][place] = reason
            else:
                result.values[name][place] = value
        result.open[name] = []

    def finish(self, done: list[tuple[_Picture, _Prepared]]) -> int:
        """Run the networks on a block and log it."""
        block = done[0][0].block
        shas = {place: prepared.sha256 for picture, prepared in done for place in picture.places}
        columns = {}
        for scorer in self.scorers:
            name = scorer.name
            values = {place: value for _, prepared in done for place, value in prepared.values[name].items()}
            errors = {place: reason for _, prepared in done for place, reason in prepared.errors[name].items()}
            self.forward(scorer, block, done, values, errors)
            ordered = tuple(values.get(place) for place in range(len(block.rows)))
            columns[name] = Column(self.log.settings[name], ordered, dict(sorted(errors.items())))
            self.failures[name] += len(errors)
            self.note(block, errors)
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

    def forward(
        self,
        scorer: Scorer,
        block: _Block,
        done: Iterable[tuple[_Picture, _Prepared]],
        values: dict[int, float],
        errors: dict[int, str],
    ) -> None:
        """Score what is open with a network; the same bytes with the same prompt once."""
        name = scorer.name
        pairs: dict[tuple[str, str], list[int]] = {}
        inputs: dict[str, Any] = {}
        for _, prepared in done:
            for place in prepared.open[name]:
                pairs.setdefault((prepared.sha256, block.rows[place].prompt or ""), []).append(place)
                inputs[prepared.sha256] = prepared.inputs[name]
        if not pairs:
            return
        # In the order of the rows, whatever the workers' order was.
        keys = sorted(pairs, key=lambda key: pairs[key][0])
        scored = self.halving(scorer, [prompt for _, prompt in keys], [inputs[sha256] for sha256, _ in keys])
        self.new[name] += len(keys)
        for key, (score, reason) in zip(keys, scored, strict=True):
            for place in pairs[key]:
                if score is None:
                    errors[place] = reason
                else:
                    values[place] = score

    def halving(self, scorer: Scorer, prompts: list[str], inputs: list[Any]) -> list[tuple[float | None, str]]:
        """Scores, or why there is none, in batches as large as memory holds."""
        import torch

        scored: list[tuple[float | None, str]] = []
        while len(scored) < len(prompts):
            span = slice(len(scored), len(scored) + self.sizes[scorer.name])
            try:
                scored += _judge(scorer.reward, prompts[span], inputs[span])
            except torch.OutOfMemoryError:
                if self.sizes[scorer.name] == 1:
                    raise PalateError(
                        f"out of memory: {scorer.name} has no room for a single picture; use fewer scorers at once, "
                        "or weights in bfloat16"
                    ) from None
                torch.cuda.empty_cache()
                self.sizes[scorer.name] = max(1, min(self.sizes[scorer.name], len(prompts)) // 2)
        return scored

    def note(self, block: _Block, errors: Mapping[int, str], keep: int = 20) -> None:
        """Remember the first few failures, each row once."""
        for place, reason in errors.items():
            told = (block.rows[place].image or block.rows[place].key, reason)
            if len(self.reasons) < keep and told not in self.reasons:
                self.reasons.append(told)


def _judge(reward: Reward, prompts: list[str], inputs: list[Any]) -> list[tuple[float | None, str]]:
    """One forward pass of a network: each score, or None and why."""
    import torch

    failures: list[Failure] = []
    if isinstance(reward, BatchedReward):
        scores = reward.score(prompts, inputs, failures)
    else:
        assert isinstance(reward, PixelReward)
        with torch.inference_mode():
            scores = reward.score_pixels(prompts, torch.stack(inputs)).float().cpu().numpy()
    reasons = {failure.index: failure.reason for failure in failures}
    return [
        (score, "") if math.isfinite(score) else (None, reasons.get(index, f"the reward returned {score}"))
        for index, score in enumerate(scores.tolist())
    ]


def _unusable(prompt: str | None, needed: bool) -> str | None:
    """Why no scorer can be asked about a prompt; None where it can."""
    if prompt is None:
        return NO_PROMPT if needed else None
    try:
        prompt.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which no tokenizer takes
        return NOT_UNICODE
    return None


def _read(row: Row) -> tuple[bytes | None, str | None]:
    """The bytes, or why there are none."""
    if row.fault is not None or row.data is None:
        return None, row.fault or "no image"
    if isinstance(row.data, bytes):
        return row.data, None
    try:
        return row.data.read_bytes(), None
    except FileNotFoundError:
        return None, "file not found"
    except (OSError, ValueError) as error:  # a directory, no permission; a path with a NUL in it
        return None, getattr(error, "strerror", None) or str(error)
