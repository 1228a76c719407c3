"""One training process in a run folder at a time."""

from __future__ import annotations

import errno
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import UserError


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock within the block; the system frees it when the process dies, however it dies.

    Raises UserError when another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with (folder / ".lock").open("a+", encoding="utf-8") as file:
        try:
            # lockf, not flock: forked data workers inherit a flock and would hold it after the trainer was killed.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                file.seek(0)
                owner = file.read().strip() or "unknown"
                raise UserError(
                    f"another process is training in {folder} ({owner}); wait for it, stop it, or choose another "
                    "output folder"
                ) from error
            warnings.warn(
                f"{folder} cannot be locked ({error.strerror}); do not train in it twice at once", stacklevel=3
            )
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
