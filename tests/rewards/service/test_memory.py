"""How many decoded pictures the service holds: a request of small files may be gigabytes of pixels."""

from __future__ import annotations

import base64
import io
import threading

from fastapi.testclient import TestClient
from PIL import Image

from palate.rewards.function import from_function
from palate.rewards.scorer import scorer_of
from palate.rewards.service import app


def test_no_more_whole_pictures_wait_than_there_are_threads(monkeypatch):
    read, lock, third = app.read_picture, threading.Lock(), threading.Event()
    held, most = 0, 0

    def decode(data: bytes, upright: bool) -> Image.Image:
        nonlocal held, most
        with lock:
            held += 1
            most = max(most, held)
        if held > 2:
            third.set()
        return read(data, upright)

    def score(prompt: str, picture: Image.Image) -> float:
        nonlocal held
        third.wait(0.03)  # the time that one more would have to be decoded
        with lock:
            held -= 1
        return 1.0

    monkeypatch.setattr(app, "default_workers", lambda: 2)
    monkeypatch.setattr(app, "read_picture", decode)
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    asked = {"images": [base64.b64encode(file.getvalue()).decode()] * 6}
    scorer = scorer_of(from_function("slow", score, needs_prompts=False))
    with TestClient(app.create_app([scorer])) as client:
        assert client.post("/score", json=asked).json()["scores"] == {"slow": [1.0] * 6}
    assert most == 2
