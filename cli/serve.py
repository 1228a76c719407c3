"""`palate score --serve`: the scorers behind HTTP until Ctrl-C."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import UserError

if TYPE_CHECKING:
    import torch

_GRACE = 30  # seconds for the requests at hand when the service is stopped


def serve(
    names: Sequence[str],
    assets: Mapping[str, Mapping[str, Any]],
    device: torch.device | str,
    dtype: torch.dtype | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    batch_size: int = 32,
    upright: bool = True,
) -> None:
    """Open the scorers and answer until SIGINT or SIGTERM; the requests at hand are finished then.

    Args:
        names, assets: as for `open_scorers`.
        dtype: of all networks; None for each scorer's own.
        host, port: where to listen; port 0 takes a free one. Another host than this machine's own needs a token.
        token: None for the environment variable PALATE_TOKEN, where that is set.

    Raises:
        UserError: the extra is not installed, the address is taken or open to all without a token, or a scorer cannot
            be opened.
    """
    token = _token(token)
    if token is None and not _is_local(host):
        raise UserError(
            f"on {host} others could use it too: set the environment variable PALATE_TOKEN (or --token), "
            "or leave --host out"
        )
    try:
        import python_multipart  # noqa: F401  FastAPI finds out only when the first form comes
        import uvicorn

        from ..rewards.service.app import create_app
    except ModuleNotFoundError as error:
        if str(error.name).startswith("palate"):
            raise
        raise UserError(f"serving needs {error.name}; run pip install 'palate[serve]'") from None
    from ..rewards.scorer import open_scorers

    with _listening(host, port) as listening:  # a port that is taken is told before gigabytes are loaded
        placed = {"device": device} if dtype is None else {"device": device, "dtype": dtype}
        app = create_app(open_scorers(names, assets, **placed), token, batch_size=batch_size, upright=upright)
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=_GRACE)
        )
        at = f"[{host}]" if ":" in host else host
        _say(f"{', '.join(names)} on http://{at}:{listening.getsockname()[1]} (Ctrl-C stops)")
        # uvicorn stops in order, and then raises the signal anew as if nobody had taken care of it.
        before = signal.signal(signal.SIGTERM, lambda *_: None)
        try:
            server.run(sockets=[listening])
        except KeyboardInterrupt:
            pass
        finally:
            signal.signal(signal.SIGTERM, before)
    _say("stopped")


def _token(token: str | None) -> str | None:
    token = token or os.environ.get("PALATE_TOKEN") or None
    if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
        raise UserError("the token may have letters, digits and signs only, without blanks: it travels in a header")
    return token


def _is_local(host: str) -> bool:
    """Whether only this machine reaches it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).partition(" (while")[0]
        raise UserError(f"cannot listen on {host}, port {port} ({reason}); give another --port or --host") from None


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
