"""Groups whose candidates have captions of their own: DCPO's three ways and TPO's (see `dual.MODES`).

DCPO: Saeedi et al., arXiv 2502.06023, where a group's winner and losers are each seen under its own caption. TPO: arXiv
2509.25771, where one picture is given twice and its captions are compared.

The source is read three times: pictures are captioned, captions are changed, groups are written. What models answered
is in a log beside the output, so that a build that was stopped goes on, and ends in the same bytes.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image

from ....datasets.ahead import default_workers, ordered_map
from ....datasets.digest import digest
from ....datasets.group import Group
from ....datasets.images import UnreadableImageError, decode
from ....datasets.parquet import Written, own_shards, write_groups
from ....datasets.readable import readable_groups
from ....datasets.skips import SkipLog, Skipped
from ....errors import UserError
from ....training.disk import write_json
from .answers import Answer, AnswerLog
from .captioner import Captioner
from .dual import Draft, draft, finish
from .perturb import ModelPerturber
from .plan import PROVENANCE, CaptionPlan, Source, ended, provenance, require_room, require_source
from .rules import RulePerturber

Advance = Callable[[str, int, int], None]
Asked = TypeVar("Asked")


@dataclass(frozen=True)
class Captioned:
    """What was written and what was left out.

    written   groups and shards
    left_out  groups without a winner, a caption or a readable picture
    skipped   rows of the source that are no groups
    asked     questions that models were asked in this run
    """

    written: Written
    left_out: SkipLog = field(default_factory=SkipLog)
    skipped: SkipLog = field(default_factory=SkipLog)
    asked: int = 0


def caption_groups(
    source: Source, out: str | Path, plan: CaptionPlan, *, overwrite: bool = False, advance: Advance | None = None
) -> Captioned:
    """Write the groups of `source` into the folder `out` with captions for their candidates.

    Labels, aspects, models, seeds and the order of candidates are kept; of TPO's see `dual.draft`. Left out and
    counted: a group without a winner where one is needed (a tie, a single candidate), with a picture that cannot be
    read, or with a caption for which a model said nothing. `captions.json` in `out` tells how captions were made, and
    `OUT.answers.jsonl` beside it holds what models answered; what failed is not asked again. Where the same call has
    ended before, and neither source nor shards have changed since, nothing is done.

    Args:
        overwrite: replace shards that are there; those that a stopped build of the same plan left always are.
        advance: called with a pass's name, groups done and groups in all (one more than are done while unknown).

    Raises:
        UserError: the source cannot be read or no group has captions, the output is in use or lies in the source, or a
            model cannot be loaded.
        PalateError: memory does not hold a single row, or the disk is full.
    """
    out = Path(out).expanduser()
    require_source(source, plan)
    if isinstance(plan.perturber, ModelPerturber):
        plan.perturber.require()  # before hours of captioning
    settings = provenance(source, plan)
    if not overwrite and (numbers := ended(source, out, settings)) is not None:
        return _as_it_ended(out, numbers)
    require_room(source, out, settings, overwrite)
    left_out, skipped, stamp = SkipLog(), SkipLog(), source.stamp()
    with AnswerLog(answers_file(out)) as log:
        build = _Build(source, plan, settings, log, advance, source.count() if advance else None)
        build.caption()
        build.change()
        groups = build.finished(left_out, skipped)
        first = next(groups, None)  # before the folder is touched
        if first is None:
            told = ", ".join(log.summary() for log in (left_out, skipped) if log.total)
            raise UserError(f"nothing to write from {source.path!r}: {told}; {left_out.examples[0]}")
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / PROVENANCE, settings)
        written = write_groups(chain([first], groups), out, mode="overwrite")
    numbers = {"groups": written.groups, "bytes": written.bytes, "stamp": stamp}
    numbers |= {"left_out": dict(left_out.counts), "skipped": dict(skipped.counts)}
    write_json(out / PROVENANCE, {**settings, "written": numbers})
    return Captioned(written, left_out, skipped, build.asked)


def answers_file(out: str | Path) -> Path:
    """Where the models' answers for a set are kept: beside it."""
    return Path(f"{Path(out).expanduser()}.answers.jsonl")


def _as_it_ended(out: Path, numbers: Mapping[str, Any]) -> Captioned:
    """What an earlier call with the same settings did; which groups were left out is no longer known."""
    shards = own_shards(out)
    written = Written(numbers["groups"], tuple(shards), sum(shard.stat().st_size for shard in shards))
    left_out, skipped = (SkipLog(counts=Counter(numbers[name])) for name in ("left_out", "skipped"))
    return Captioned(written, left_out, skipped)


@dataclass
class _Build:
    source: Source
    plan: CaptionPlan
    settings: Mapping[str, Any]
    log: AnswerLog
    advance: Advance | None
    total: int | None
    asked: int = 0

    def caption(self) -> None:
        """Ask for the captions that the log lacks."""
        if self.plan.captioner is not None:
            read = ordered_map(self._pictures, self.source.groups(), default_workers())
            requests = (request for _, found in self._step("captioning", read) for request in found)
            self._ask(requests, self.plan.captioner)
        torch.cuda.empty_cache()  # there must be room for the perturber

    def change(self) -> None:
        """Ask for the changed captions that the log lacks; rules are followed when they are needed."""
        if isinstance(self.plan.perturber, ModelPerturber):
            texts = (text for group in self._step("changing", self.source.groups()) for text in self._to_change(group))
            self._ask(((self._change_key(text), text) for text in texts), self.plan.perturber)

    def finished(self, left_out: SkipLog, skipped: SkipLog) -> Iterator[Group]:
        """The groups as they are written."""
        for group in readable_groups(self._step("writing", self.source.groups(skipped)), left_out):
            drafted = draft(group, self.plan.mode)
            done = finish(drafted, self._caption, self._changed) if isinstance(drafted, Draft) else drafted
            if isinstance(done, Skipped):
                left_out.add(done.key, done.reason, done.detail)
            else:
                yield done

    def _step(self, name: str, items: Iterable[Asked]) -> Iterator[Asked]:
        """What is read of the source, an item for each group, with a word to `advance` when each is done."""
        done = 0
        for done, item in enumerate(items, 1):
            yield item
            if self.advance is not None:
                self.advance(name, done, self.total or done + 1)
        if self.advance is not None and self.total is None:
            self.advance(name, done, done)

    def _ask(self, requests: Iterable[tuple[str, Any]], who: Captioner | ModelPerturber) -> None:
        """Ask what is not in the log, each once; a build that goes on makes the batches that it would have made."""
        missing = ((key, asked) for key, asked in requests if key not in self.log)
        first = next(missing, None)
        if first is None:
            return
        ask, batch = who.open(), dict[str, Any]()

        def settle() -> None:
            self.log.add(dict(zip(batch, ask(list(batch.values())), strict=True)))
            self.asked += len(batch)
            batch.clear()

        for key, asked in chain([first], missing):
            batch[key] = asked
            if len(batch) == who.batch_size:
                settle()
        if batch:
            settle()

    def _pictures(self, group: Group) -> list[tuple[str, tuple[Image.Image, str]]]:
        """The pictures of a group that are to be captioned and can be read, with its prompt; in a worker's thread."""
        drafted, found = draft(group, self.plan.mode), []
        for data in dict.fromkeys(drafted.group.candidates if isinstance(drafted, Draft) else ()):
            key = self._caption_key(data, group.prompt)
            if key not in self.log:
                with contextlib.suppress(UnreadableImageError):  # the last pass names it
                    found.append((key, (decode(data), group.prompt)))
        return found

    def _to_change(self, group: Group) -> Iterator[str]:
        drafted = draft(group, self.plan.mode)
        if isinstance(drafted, Draft):
            answers = [self._caption(drafted.group, i) for i, change in enumerate(drafted.change) if change]
            yield from (answer.text for answer in answers if answer.text is not None)

    def _caption(self, group: Group, candidate: int) -> Answer:
        """The caption of a candidate before any change."""
        if self.plan.captioner is not None:
            answer = self.log.find(self._caption_key(group.candidates[candidate], group.prompt))
            return answer or Answer(None, "the picture cannot be read")
        if group.captions is not None and self.plan.mode != "perturb":
            return Answer(group.captions[candidate])
        if self.plan.mode == "hybrid":
            return Answer(None, "the group has no captions, and there is no captioner")
        return Answer(group.prompt)

    def _changed(self, text: str) -> Answer:
        perturber = self.plan.perturber
        if isinstance(perturber, RulePerturber):
            new = perturber.perturb(text)
            return Answer(new, "" if new else "no word that the rules can change")
        return self.log.find(self._change_key(text)) or Answer(None, "the source has changed since it was read")

    def _caption_key(self, data: bytes, prompt: str) -> str:
        return digest(_words(self.settings["captioner"]), data, prompt)

    def _change_key(self, text: str) -> str:
        return digest(_words(self.settings["perturber"]), text)


def _words(settings: Mapping[str, Any]) -> str:
    """What decides an answer; where the model's folder lies does not."""
    return json.dumps({name: value for name, value in settings.items() if name != "model"}, sort_keys=True)
