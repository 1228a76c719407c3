"""JSON to and from an HTTP service, with the standard library alone; whatever goes wrong is one line."""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from ...errors import PalateError, UserError

_FULL = 503


@dataclass(frozen=True)
class HttpService:
    """Speaks directly, past any proxy; one connection a request, so that threads may share it.

    Args:
        url: `http://host:port`, `https://...`, or with a path in front of the service's own.
        token: sent with every request.
        timeout: seconds that a request may take, including the wait for a service that is full.

    Raises:
        UserError: the url is none.
    """

    url: str
    token: str | None = field(default=None, repr=False)
    timeout: float = 300.0

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            whole = parts.hostname and parts.port != 0 and not (parts.query or parts.fragment or "@" in parts.netloc)
            known = whole and parts.scheme in ("http", "https")
        except ValueError:  # a port that is no number
            known = False
        if not known:
            raise UserError(f"{self.url!r} is no service's address; give one such as http://127.0.0.1:8000")

    def get(self, path: str) -> Any:
        """What the service answers to a GET. Raises as `post`."""
        return self._call("GET", path, None)

    def post(self, path: str, body: bytes) -> Any:
        """What the service answers to a POST of JSON.

        Raises:
            UserError: the token is missing or wrong, or the request is refused.
            PalateError: the service cannot be reached, is full for too long, fails, or answers no JSON.
        """
        return self._call("POST", path, body)

    def _call(self, method: str, path: str, body: bytes | None) -> Any:
        end = time.monotonic() + self.timeout
        while True:
            status, pause, data = self._exchange(method, path, body, max(end - time.monotonic(), 0.1))
            if status != _FULL or time.monotonic() + pause >= end:
                break
            time.sleep(pause)
        try:
            answer = json.loads(data)
        except ValueError:
            answer = None
        if status == 200 and answer is not None:
            return answer
        told = answer.get("detail") if isinstance(answer, dict) else None
        if status == 401:
            given = "does not take this token" if self.token else "wants a token"
            raise UserError(f"{self.url} {given}; set the environment variable PALATE_TOKEN to the service's")
        if status == 200 or told is None:
            raise PalateError(f"{self.url}{path} answered {status} and not as a palate service does; is it one?")
        raise (UserError if status in (413, 415, 422) else PalateError)(f"{self.url}: {told}")

    def _exchange(self, method: str, path: str, body: bytes | None, timeout: float) -> tuple[int, float, bytes]:
        """Status, the seconds after which to ask again, and the answer's body."""
        parts = urlsplit(self.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=timeout)
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Connection": "close"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        try:
            # A service that refuses a large body answers before it has read it.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, parts.path.rstrip("/") + path, body, headers)
            response = connection.getresponse()
            pause = response.headers.get("Retry-After", "")
            return response.status, float(pause) if pause.isdecimal() else 1.0, response.read()
        except TimeoutError:
            raise PalateError(f"{self.url} did not answer within {self.timeout:g} seconds") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise PalateError(
                f"{self.url} cannot be reached ({reason}); does `palate score --serve` run there?"
            ) from None
        finally:
            connection.close()
