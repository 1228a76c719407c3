"""What a client asks of the service: JSON with base64 or a form with files, read within limits."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import HTTPException, Request
from pydantic import BaseModel, ConfigDict, FailFast, ValidationError
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.types import Message, Receive


@dataclass(frozen=True)
class Limits:
    """What the service takes.

    bytes       of one request's body
    images      in one request
    requests    that are read, wait or are scored at once
    characters  of one prompt that a scorer reads: megabytes would hold up everybody
    seconds     that a body may take to arrive: those that stall would keep everybody else's places
    """

    bytes: int = 64 * 2**20
    images: int = 256
    requests: int = 32
    characters: int = 10_000
    seconds: float = 120.0


@dataclass(frozen=True)
class Asked:
    """One request: as many prompts as images, and the names of scorers that there are."""

    prompts: tuple[str | None, ...]
    images: tuple[bytes, ...]
    scorers: tuple[str, ...]


class _Json(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    images: Annotated[list[str], FailFast()]
    prompts: Annotated[list[str | None], FailFast()] = []
    scorers: Annotated[list[str], FailFast()] = []


async def read_request(request: Request, limits: Limits, known: Sequence[str]) -> Asked:
    """Read and check a request's body.

    Args:
        known: the scorers that can be asked for, and those that are where none is named.

    Raises:
        HTTPException: 408 too slow, 413 too large, 415 neither JSON nor a form, 422 not what is expected; one line.
        ClientDisconnect: the client went away.
    """
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limits.bytes:
        raise _too_large(limits)
    bounded = Request(request.scope, _bounded(request.receive, limits))
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        prompts, images, scorers = await asyncio.to_thread(_from_json, await bounded.body(), limits)
    elif kind == "multipart/form-data":
        prompts, images, scorers = await _from_form(bounded, limits)
    else:
        raise HTTPException(415, "send application/json or multipart/form-data")
    _require_few(images, limits)
    if not images:
        raise HTTPException(422, "there are no images")
    prompts = prompts or [None] * len(images)
    if len(prompts) != len(images):
        raise HTTPException(
            422, f"got {len(prompts)} prompts and {len(images)} images; send one prompt for each image, in their order"
        )
    for name in scorers:
        if name not in known:
            raise HTTPException(422, f"there is no scorer {name[:100]!r} here; there are {', '.join(known)}")
    return Asked(tuple(prompts), tuple(images), tuple(dict.fromkeys(scorers or known)))


def _from_json(body: bytes, limits: Limits) -> tuple[list[str | None], list[bytes], list[str]]:
    try:
        asked = _Json.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise HTTPException(422, f"{where}: {first['msg']}" if where else first["msg"]) from None
    _require_few(asked.images, limits)
    images = []
    for index, text in enumerate(asked.images):
        try:
            images.append(base64.b64decode(text, validate=True))
        except ValueError as error:
            reason = (
                f"images.{index}: not base64 ({error}); send the file's bytes without line breaks or a data: prefix"
            )
            raise HTTPException(422, reason) from None
    return asked.prompts, images, asked.scorers


class _Form(MultiPartParser):
    """Knows whether its end came: a form that is cut off looks like one with fewer parts."""

    complete = False

    def on_end(self) -> None:
        """At the closing boundary."""
        self.complete = True


async def _from_form(request: Request, limits: Limits) -> tuple[list[str | None], list[bytes], list[str]]:
    fields: dict[str, list[Any]] = {"images": [], "prompts": [], "scorers": []}
    # The parser takes what is not in the form's charset for Latin-1. With Latin-1 all bytes come through as they are.
    headers = Headers({"content-type": f"{request.headers['content-type']}; charset=latin-1"})
    parser = _Form(headers, request.stream(), max_files=limits.images, max_fields=2 * limits.images + 100)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise HTTPException(413 if "Too many" in error.message else 422, error.message) from None
    try:
        if not parser.complete:
            raise HTTPException(422, "the form is cut off: its closing boundary is missing")
        for name, value in form.multi_items():
            if name not in fields:
                raise HTTPException(422, f"there is no field {name[:100]!r}; there are {', '.join(fields)}")
            if isinstance(value, UploadFile) != (name == "images"):
                raise HTTPException(422, f"{name} are sent as {'files' if name == 'images' else 'text'}")
            where = f"{name}.{len(fields[name])}"
            fields[name].append(await value.read() if isinstance(value, UploadFile) else _as_utf8(value, where))
    finally:
        await form.close()
    return fields["prompts"], fields["images"], fields["scorers"]


def _as_utf8(text: str, where: str) -> str:
    try:
        return text.encode("latin-1").decode()
    except UnicodeDecodeError as error:
        raise HTTPException(422, f"{where}: not UTF-8 ({error.reason} at byte {error.start})") from None


def _require_few(images: Sequence[object], limits: Limits) -> None:
    if len(images) > limits.images:
        raise HTTPException(413, f"got {len(images)} images; a request may have {limits.images}")


def _bounded(receive: Receive, limits: Limits) -> Receive:
    """The body as it comes, until it is too long: the length that a client declares may be missing."""
    read = 0
    end = asyncio.get_running_loop().time() + limits.seconds

    async def bounded() -> Message:
        nonlocal read
        try:
            message = await asyncio.wait_for(receive(), end - asyncio.get_running_loop().time())
        except asyncio.TimeoutError:
            raise HTTPException(408, f"the body did not arrive within {limits.seconds:g} s; send it again") from None
        read += len(message.get("body", b""))
        if read > limits.bytes:
            raise _too_large(limits)
        return message

    return bounded


def _too_large(limits: Limits) -> HTTPException:
    return HTTPException(413, f"the request has more than {limits.bytes:,} bytes; send fewer images at once")
