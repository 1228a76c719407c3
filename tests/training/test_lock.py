import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from palate.errors import UserError
from palate.training.lock import locked


def test_the_lock_dies_with_the_trainer_not_with_its_workers(tmp_path: Path, forked: Callable[..., Any]) -> None:
    worker = tmp_path / "worker.pid"

    def train() -> None:
        with locked(tmp_path):
            if (pid := os.fork()) == 0:  # as the data loader does
                time.sleep(20)
                os._exit(0)
            (tmp_path / "pid").write_text(str(pid))
            (tmp_path / "pid").rename(worker)
            time.sleep(20)

    trainer = forked(train)
    while not worker.exists():
        time.sleep(0.01)
    with (
        pytest.raises(UserError, match=rf"another process is training in .*\(process {trainer.pid} on"),
        locked(tmp_path),
    ):
        pass
    trainer.kill()
    trainer.join()
    os.kill(int(worker.read_text()), 0)  # still there
    with locked(tmp_path):
        pass
    os.kill(int(worker.read_text()), 9)
