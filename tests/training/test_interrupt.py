"""The first signal is heard and answered; the second one stops at once."""

from __future__ import annotations

import os
import signal

import pytest

from palate.training.interrupt import interruptible


def test_the_first_signal_is_answered_and_the_second_stops(capfd: pytest.CaptureFixture[str]) -> None:
    with interruptible() as interrupt:
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.requested
        assert "stopping after this step" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert capfd.readouterr().err == ""
