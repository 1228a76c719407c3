"""Scorers behind HTTP, for trainers that live in another environment or on another machine. Nothing is unpickled.

    POST /score    {"prompts": [...], "images": [base64, ...], "scorers": [...]}, or a form with files
                   -> {"scores": {"pickscore": [20.1, null]}, "errors": {"pickscore": {"1": "truncated"}}}
    GET  /scorers  what there is, what the numbers mean and what they were made with
    GET  /health   open to all: probes have no token

A refusal is {"detail": one line} with 401, 413, 415, 422 or 503; a scorer that breaks off is 500.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Event
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from PIL import Image
from starlette.requests import ClientDisconnect

from ... import __version__
from ...datasets.ahead import default_workers
from ..pixels import shared_resizing
from ..scorer import Scorer
from ..scoring.asking import Mark, input_of, prompt_for, takes_pixels, unusable
from ..scoring.picture_file import read_picture
from ..scoring.provenance import versions
from .queue import BatchQueue, ScorerFailedError, StoppedError
from .request import Asked, Limits, read_request

_CLIENT_LEFT = 499
_LATER = {"Retry-After": "1"}
_log = logging.getLogger(__name__)


def create_app(
    scorers: Sequence[Scorer],
    token: str | None = None,
    limits: Limits | None = None,
    *,
    batch_size: int = 32,
    upright: bool = True,
) -> FastAPI:
    """The service as an ASGI application; its threads live from its startup to its shutdown.

    Args:
        scorers: open ones, of different names.
        token: who does not send `Authorization: Bearer TOKEN` gets 401; None lets everybody in.
        limits: what is refused, with 413, or with 503 where the service is full.
        batch_size: pictures of one forward pass, of however many clients.
        upright: turn pictures as their EXIF says, as `palate score` does.
    """
    limits = limits or Limits()
    by_name = {scorer.name: scorer for scorer in scorers}
    if len(by_name) < len(scorers):
        raise ValueError(f"two scorers have the same name: {', '.join(scorer.name for scorer in scorers)}")
    works: list[_Work] = []
    inside = 0

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        works.append(_Work(by_name, batch_size, upright, limits.characters))
        yield
        await asyncio.to_thread(works.pop().close)

    async def authorize(request: Request) -> None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if token is None or (scheme.lower() == "bearer" and secrets.compare_digest(given.encode(), token.encode())):
            return
        raise HTTPException(401, "send the header 'Authorization: Bearer TOKEN'", {"WWW-Authenticate": "Bearer"})

    def work() -> _Work:
        if not (works and works[0].queue.is_alive):
            raise HTTPException(503, "the scoring thread does not run")
        return works[0]

    app = FastAPI(title="palate", version=__version__, lifespan=lifespan, openapi_url=None)

    @app.get("/health")
    async def health() -> dict[str, str]:
        work()
        return {"status": "ok"}

    @app.get("/scorers", dependencies=[Depends(authorize)])
    async def describe() -> dict[str, Any]:
        return {
            "scorers": [_described(scorer) for scorer in scorers],
            "limits": {"bytes": limits.bytes, "images": limits.images},
            "upright": upright,
            "version": __version__,
            "versions": versions(),
        }

    @app.post("/score", dependencies=[Depends(authorize)])
    async def score(request: Request) -> Any:
        nonlocal inside
        if inside >= limits.requests:
            raise HTTPException(503, f"{inside} requests wait already; try again later", _LATER)
        inside += 1
        try:
            asked = await read_request(request, limits, list(by_name))
            marks = await _unless_left(request, work().marks(asked))
        except ClientDisconnect:
            return Response(status_code=_CLIENT_LEFT)
        except StoppedError as error:
            raise HTTPException(503, str(error), _LATER) from None
        except HTTPException:
            raise
        except Exception as error:  # no picture's fault, so that it must not pass for a picture's missing score
            if not isinstance(error, ScorerFailedError):  # which the queue has logged
                _log.error("a request failed", exc_info=error)
            raise HTTPException(500, str(error).partition("\n")[0] or type(error).__name__) from None
        finally:
            inside -= 1
        return _answer(asked, marks)

    return app


class _Work:
    """The threads behind one application: some decode and prepare, one runs the networks."""

    def __init__(self, scorers: dict[str, Scorer], batch_size: int, upright: bool, characters: int) -> None:
        self.scorers, self.upright, self.characters = scorers, upright, characters
        self.queue = BatchQueue(batch_size)
        self.pool = ThreadPoolExecutor(default_workers(), "decoding")

    async def marks(self, asked: Asked) -> list[dict[str, Mark]]:
        """By image and scorer. When the caller is cancelled, what is not scored yet is left out."""
        gone = Event()
        prepared = [
            self.pool.submit(self.prepare, data, prompt if prompt and prompt.strip() else None, asked.scorers, gone)
            for data, prompt in zip(asked.images, asked.prompts, strict=True)
        ]
        try:
            rows = [await asyncio.wrap_future(row) for row in prepared]
            return [
                {name: mark if isinstance(mark, str) else await asyncio.wrap_future(mark) for name, mark in row.items()}
                for row in rows
            ]
        finally:
            gone.set()
            for row in prepared:
                row.cancel()

    def prepare(
        self, data: bytes, prompt: str | None, names: Sequence[str], gone: Event
    ) -> dict[str, Future[Mark] | str]:
        """Decode one picture and queue it; in a worker's thread."""
        if gone.is_set():
            return {}
        try:
            picture = read_picture(data, self.upright)
        except ValueError as error:
            return dict.fromkeys(names, str(error))
        with shared_resizing(picture):
            marks = {name: self.queued(self.scorers[name], prompt, picture, gone) for name in names}
        # A whole picture may have hundreds of megabytes, so that no more of them wait than there are threads.
        whole = [name for name in names if not takes_pixels(self.scorers[name].reward)]
        wait([mark for name in whole if isinstance(mark := marks[name], Future)])
        return marks

    def queued(self, scorer: Scorer, prompt: str | None, picture: Image.Image, gone: Event) -> Future[Mark] | str:
        """The mark to come, or the reason why there will be none."""
        if reason := unusable(scorer, prompt):
            return reason
        shown = prompt_for(scorer, prompt)
        if len(shown) > self.characters:
            return f"the prompt has more than {self.characters:,} characters"
        try:
            medium = input_of(scorer.reward, picture)
        except (ValueError, OSError) as error:
            return str(error) or type(error).__name__
        return self.queue.submit(scorer, shown, medium, gone)

    def close(self) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)
        self.queue.close()
        self.pool.shutdown()


async def _unless_left(request: Request, work: Any) -> Any:
    """What a coroutine gives; it is cancelled when the client goes away. Raises ClientDisconnect then."""

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = asyncio.ensure_future(work), asyncio.ensure_future(left())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise ClientDisconnect
        return tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()


def _described(scorer: Scorer) -> dict[str, Any]:
    return {
        "name": scorer.name,
        "modality": scorer.reward.modality,
        "needs_prompts": scorer.needs_prompts,
        "scale": scorer.scale,
        "fingerprint": scorer.fingerprint,
        "settings": json.loads(json.dumps(dict(scorer.settings), default=str)),
    }


def _answer(asked: Asked, marks: Sequence[dict[str, Mark]]) -> dict[str, Any]:
    scores = {name: [None if isinstance(row[name], str) else row[name] for row in marks] for name in asked.scorers}
    errors = {
        name: {str(place): row[name] for place, row in enumerate(marks) if isinstance(row[name], str)}
        for name in asked.scorers
    }
    return {"scores": scores, "errors": {name: reasons for name, reasons in errors.items() if reasons}}
