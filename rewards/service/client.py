"""A reward that another process computes: `palate score --serve`, here or on another machine."""

from __future__ import annotations

import base64
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from PIL import Image

from ...datasets.images import damage
from ...errors import PalateError, UserError
from ..reward import Failure, prepared, report_failure, require_pairs
from ..scorer import Scorer, Service
from .connection import HttpService


@dataclass(frozen=True, eq=False)
class RemoteReward:
    """One scorer of a service, by the contract of a reward that computes here.

    Pictures travel without loss: a value is the one that the same scorer gives here, but a blank prompt is none.
    Requests are as large as the service takes; a service that is full is asked again until its time is over.

    Args:
        service: where it is.
        name: of the scorer, there and here.
        settings: what decides its numbers, as the service tells it.
        most_images, most_bytes: that a request may have.
        versions: of palate and of libraries there.
    """

    service: HttpService
    name: str
    settings: Mapping[str, Any]
    needs_prompts: bool
    scale: str
    most_images: int
    most_bytes: int
    versions: Mapping[str, str] = field(default_factory=dict)
    modality: Literal["image"] = "image"
    differentiable: bool = False
    batched: Literal[True] = True

    def score(
        self, prompts: Sequence[str], media: Sequence[Image.Image], failures: list[Failure] | None = None
    ) -> np.ndarray:
        """The service's values, float32 `[n]`; NaN with the service's reason.

        Raises:
            ValueError: there are not as many prompts as pictures.
            PalateError: the service cannot be reached, or does not answer as one.
        """
        require_pairs(prompts, media)
        scores = np.full(len(prompts), np.nan, dtype=np.float32)
        reasons: dict[int, str] = {}

        def encode(picture: Image.Image) -> bytes:
            try:
                return base64.b64encode(encoded(picture))
            except MemoryError:
                raise
            except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, struct.error, ...
                raise ValueError(damage(error)) from error

        def ask(batch: list[tuple[int, bytes]]) -> None:
            answer = self._ask([prompts[index] for index, _ in batch], [image for _, image in batch])
            for (index, _), (value, reason) in zip(batch, answer, strict=True):
                scores[index] = value
                if not math.isfinite(value):
                    scores[index], reasons[index] = math.nan, reason

        batch: list[tuple[int, bytes]] = []
        whole = self.most_bytes - 1000  # names and brackets
        room = whole
        for index, image in prepared(encode, media, range(len(prompts)), reasons):
            size = len(image) + len(json.dumps(prompts[index])) + 6
            if size > whole:
                reasons[index] = f"its {size:,} bytes are more than the service takes"
                continue
            if batch and (len(batch) == self.most_images or size > room):
                ask(batch)
                batch, room = [], whole
            batch.append((index, image))
            room -= size
        if batch:
            ask(batch)
        for index in sorted(reasons):
            report_failure(Failure(index, reasons[index]), failures)
        return scores

    def _ask(self, prompts: list[str], images: list[bytes]) -> list[tuple[float, str]]:
        """For each pair its value, or NaN and the reason."""
        # Base64 needs no escapes: put together by hand, megabytes are not searched for some.
        parts = b'{"prompts": ', json.dumps(prompts).encode(), b', "scorers": ', json.dumps([self.name]).encode()
        body = b"".join([*parts, b', "images": ["', b'", "'.join(images), b'"]}'])
        answer = self.service.post("/score", body)
        try:
            values = [math.nan if value is None else float(value) for value in answer["scores"][self.name]]
            reasons = answer["errors"].get(self.name, {})
            found = [(value, str(reasons.get(str(place), "no reason is given"))) for place, value in enumerate(values)]
        except (KeyError, TypeError, ValueError, AttributeError):
            found = []
        if len(found) != len(prompts):
            raise PalateError(f"{self.service.url} did not answer with {len(prompts)} scores; is it a palate service?")
        return found


def open_remote(url: str, scorer: str | None = None, token: str | None = None, timeout: float = 300.0) -> RemoteReward:
    """A scorer of a running service.

    Args:
        url: such as `http://127.0.0.1:8000`.
        scorer: its name; None where the service has only one.
        token: the service's; None for the environment variable PALATE_TOKEN, where that is set.
        timeout: seconds that one request may take.

    Raises:
        UserError: the service cannot be reached or refuses the token, or has no such scorer.
    """
    found = {reward.name: reward for reward in open_remotes(url, token, timeout)}
    if scorer is None and len(found) != 1:
        raise UserError(f"{url} has the scorers {', '.join(found)}; name one of them")
    if scorer is not None and scorer not in found:
        raise UserError(f"{url} has no scorer {scorer!r}; it has {', '.join(found)}")
    return found[scorer or next(iter(found))]


def open_remotes(url: str, token: str | None = None, timeout: float = 300.0) -> list[RemoteReward]:
    """All scorers of a running service; see `open_remote`."""
    service = HttpService(url, token or os.environ.get("PALATE_TOKEN") or None, timeout)
    try:
        answer = service.get("/scorers")
    except UserError:
        raise
    except PalateError as error:
        raise UserError(str(error)) from None
    try:
        limits = answer["limits"]
        return [
            RemoteReward(
                service=service,
                name=str(told["name"]),
                settings=dict(told["settings"]),
                needs_prompts=bool(told["needs_prompts"]),
                scale=str(told["scale"]),
                most_images=int(limits["images"]),
                most_bytes=int(limits["bytes"]),
                versions=dict(answer.get("versions", {})),  # the first services did not tell
            )
            for told in answer["scorers"]
        ]
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{url} does not list scorers; is it a palate service?") from None


def remote_scorers(url: str, names: Sequence[str], token: str | None = None) -> list[Scorer]:
    """Scorers of a running service by name, for `score_images`; see `open_remote`."""
    found = {reward.name: reward for reward in open_remotes(url, token)}
    if strange := [name for name in names if name not in found]:
        raise UserError(f"{url} has no scorer {strange[0]!r}; it has {', '.join(found)}")
    return [remote_scorer(found[name]) for name in names]


def remote_scorer(reward: RemoteReward) -> Scorer:
    """For `score_images`. Its fingerprint is the service's: scores on record count wherever they were computed."""
    there = Service(reward.service.url, reward.versions)
    return Scorer(reward.name, reward, reward.settings, reward.needs_prompts, reward.scale, there)


def encoded(picture: Image.Image) -> bytes:
    """The picture's pixels as an uncompressed TIFF, which has nearly all modes: PNG would take 20 times as long.

    What else a file brought (EXIF, further frames) stays behind: nothing turns the picture there.

    Raises:
        OSError, ValueError, ...: the picture cannot be decoded, or TIFF has no such mode.
    """
    pixels = picture.convert("RGBA") if "transparency" in picture.info else picture.copy()
    pixels.info = {}
    file = io.BytesIO()
    pixels.save(file, format="TIFF")
    return file.getvalue()
