"""A reward over the wire is the reward: against a real server on a free port, and against servers that misbehave."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import socket
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import uvicorn
from PIL import Image

from palate.datasets.shapes.world import Shape, render
from palate.errors import PalateError, UserError
from palate.rewards.function import from_function
from palate.rewards.reward import BatchedReward, Failure
from palate.rewards.scorer import Scorer, open_scorer, scorer_of
from palate.rewards.scoring.batch import score_images
from palate.rewards.scoring.picture_file import read_picture
from palate.rewards.scoring.provenance import versions
from palate.rewards.service import app
from palate.rewards.service.app import create_app
from palate.rewards.service.client import (
    RemoteReward,
    encoded,
    open_remote,
    open_remotes,
    remote_scorer,
    remote_scorers,
)
from palate.rewards.service.request import Limits

PAIR = render([Shape("circle", "red", 9, 10, 5), Shape("cross", "blue", 22, 12, 5)])
PROMPTS = ["a photo of a red circle and a blue cross", "a photo of a red circle and a red cross"]


@contextlib.contextmanager
def serving(*scorers: Scorer, token: str | None = None, limits: Limits | None = None) -> Iterator[str]:
    """The address of a service that runs in a thread."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(scorers, token, limits), log_level="critical"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()


def pictures(count: int, side: int = 40) -> list[Image.Image]:
    draw = np.random.default_rng(0)
    return [Image.fromarray(draw.integers(0, 256, (side, side + n, 3), dtype=np.uint8)) for n in range(count)]


def test_the_round_trip_is_the_reward_itself(gelu_folder):
    here = open_scorer("pickscore", weights=gelu_folder)
    media, prompts = [*pictures(7), PAIR, PAIR], [*(f"a big red dog {n}" for n in range(7)), *PROMPTS]
    with serving(here, open_scorer("shapes_oracle")) as url:
        there, oracle = open_remotes(url)
        assert isinstance(there, BatchedReward)
        assert (there.name, there.modality, there.differentiable) == ("pickscore", "image", False)
        np.testing.assert_allclose(there.score(prompts, media), here.reward.score(prompts, media), rtol=1e-6, atol=1e-5)
        failures: list[Failure] = []
        found = oracle.score([*PROMPTS, "a dog"], [PAIR] * 3, failures)
        assert found.dtype == np.float32
        assert found.tolist() == [1, np.float32(1 / 3), pytest.approx(np.nan, nan_ok=True)]
        assert [failure.index for failure in failures] == [2]
        assert "a dog" in failures[0].reason
        with pytest.raises(ValueError, match="got 1 prompts and 2 media"):
            there.score(["a"], media[:2])
        # Scores on record count wherever they were computed.
        assert remote_scorer(there).fingerprint == here.fingerprint
        assert remote_scorer(there).scale == here.scale
        with pytest.raises(UserError, match="has the scorers pickscore, shapes_oracle; name one"):
            open_remote(url)
        with pytest.raises(UserError, match="has no scorer 'hpsv2'; it has pickscore, shapes_oracle"):
            open_remote(url, "hpsv2")


def test_the_tables_name_the_service_and_its_libraries_and_count_as_they_do_here(tmp_path, gelu_folder, monkeypatch):
    for number, picture in enumerate([*pictures(3), Image.new("RGB", (1, 300))]):
        picture.save(tmp_path / f"{number}.png")
    (tmp_path / "prompts.txt").write_text("a red dog\n" * 4)
    scorers = [open_scorer("pickscore", weights=gelu_folder), open_scorer("sharpness")]
    here, there = versions(), {**versions(), "torch": "9.9", "pillow": "8.8"}
    monkeypatch.setattr(app, "versions", lambda: there)
    done, meta = {}, {}
    with serving(*scorers, token="s3cret") as url:
        asked = remote_scorers(url, ["pickscore", "sharpness"], "s3cret")
        for out, some in (("here", scorers), ("asked", asked), ("both", [asked[0], scorers[1]])):
            done[out] = score_images(tmp_path, some, tmp_path / out, prompts=tmp_path / "prompts.txt")
            meta[out] = json.loads((tmp_path / out / "scores.meta.json").read_text())
            assert "s3cret" not in json.dumps(meta[out]) + (tmp_path / out / "log-0-of-1.jsonl").read_text()
    # One picture is too thin for PickScore, and both are for the Laplacian's 3 pixels.
    assert done["asked"].new == done["here"].new == done["both"].new == {"pickscore": 3, "sharpness": 3}
    assert done["asked"].failures == done["here"].failures == {"pickscore": 1, "sharpness": 1}
    assert (meta["here"]["versions"], "service" in meta["here"]["scorers"]["pickscore"]) == (here, False)
    told = {"address": url, "versions": there}
    assert [meta["asked"]["scorers"][scorer.name]["service"] for scorer in scorers] == [told, told]
    assert meta["asked"]["versions"] == {name: here[name] for name in ("palate", "pillow", "numpy")}
    assert (meta["both"]["versions"], "service" in meta["both"]["scorers"]["sharpness"]) == (here, False)
    # Pillow decoded here, the networks ran there.
    again = score_images(
        tmp_path, scorers, tmp_path / "again", prompts=tmp_path / "prompts.txt", reuse=[tmp_path / "asked"]
    )
    assert again.new == {"pickscore": 0, "sharpness": 0}
    meta["again"] = json.loads((tmp_path / "again/scores.meta.json").read_text())
    assert meta["again"]["other_versions"] == [{**here, "torch": "9.9"}]
    assert not any("other_versions" in meta[out] for out in ("here", "asked", "both"))


def test_a_service_that_does_not_tell_its_versions_is_asked_all_the_same():
    told = {"name": "one", "settings": {}, "needs_prompts": True, "scale": ""}
    answer = {"scorers": [told], "limits": {"images": 1, "bytes": 9}}
    with answering((200, json.dumps(answer))) as url:
        assert open_remote(url).versions == {}
    with answering((200, json.dumps({**answer, "versions": 3}))) as url, pytest.raises(UserError, match="not list sc"):
        open_remote(url)


def test_requests_are_no_larger_than_the_service_takes():
    asked = []

    def area(prompt: str, picture: Image.Image) -> float:
        asked.append(prompt)
        return picture.width * picture.height

    media = pictures(9)
    prompts = [str(number) for number in range(9)]
    expected = [40 * (40 + number) for number in range(9)]
    size = len(encoded(media[0])) * 4 // 3
    for limits in (Limits(images=4), Limits(bytes=3 * size)):
        with serving(scorer_of(from_function("area", area)), limits=limits) as url:
            assert open_remote(url).score(prompts, media).tolist() == expected
            failures: list[Failure] = []
            big = pictures(1, side=120)[0]
            marks = open_remote(url).score(["", '"' * 300], [big, media[0]], failures)
            assert marks[1] == 1600
            if limits.bytes < 10**6:
                assert np.isnan(marks[0])
                assert failures[0].reason.endswith("bytes are more than the service takes")


def test_a_picture_that_is_broken_here_costs_nothing_there(tmp_path):
    pictures(1)[0].save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:900])
    cut = Image.open(tmp_path / "cut.png")
    width = scorer_of(from_function("width", lambda prompt, picture: picture.width))
    failures: list[Failure] = []
    with serving(width) as url:
        marks = open_remote(url).score(["a", "b"], [cut, PAIR], failures)
    np.testing.assert_array_equal(marks, np.float32([np.nan, 32]))
    assert failures == [Failure(0, "truncated")]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "YCbCr"])
def test_pixels_travel_without_loss(mode):
    picture = pictures(1)[0]
    if mode in ("I;16", "I", "F"):
        levels = np.random.default_rng(1).integers(0, 65536, (9, 7))
        picture = Image.fromarray(levels.astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]))
    elif mode != "RGB":
        picture = picture.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6  # would be turned there
    picture.info["exif"] = exif.tobytes()
    there = read_picture(encoded(picture))
    assert (there.mode, there.size) == (picture.mode, picture.size)
    np.testing.assert_array_equal(
        np.asarray(there.convert("RGBA" if mode == "P" else mode)),
        np.asarray(picture.convert("RGBA" if mode == "P" else mode)),
    )
    assert picture.info["exif"]


def test_what_else_a_file_brought_does_not_travel():
    picture, exif = pictures(1)[0], Image.Exif()
    exif[0x010E] = "SECRET"
    texts = dict.fromkeys(("comment", "xmp", "icc_profile", "photoshop"), b"SECRET")
    picture.info = {**texts, "exif": exif.tobytes(), "Software": "SECRET", "compression": "jpeg"}
    sent = encoded(picture)
    assert b"SECRET" not in sent
    np.testing.assert_array_equal(np.asarray(read_picture(sent)), np.asarray(picture))  # JPEG would lose some


def test_the_token_comes_from_the_environment_and_is_never_shown(monkeypatch):
    width = scorer_of(from_function("width", lambda prompt, picture: picture.width))
    monkeypatch.delenv("PALATE_TOKEN", raising=False)
    with serving(width, token="s3cret") as url:
        with pytest.raises(UserError, match=r"wants a token; set the environment variable PALATE_TOKEN"):
            open_remote(url)
        with pytest.raises(UserError, match="does not take this token"):
            open_remote(url, token="wrong")
        monkeypatch.setenv("PALATE_TOKEN", "s3cret")
        reward = open_remote(url)
        assert reward.score(["a"], [PAIR]).tolist() == [32]
    assert "s3cret" not in repr(reward)
    with pytest.raises(PalateError, match=r"cannot be reached \(Connection refused\); does `palate score --serve` run"):
        reward.score(["a"], [PAIR])
    with pytest.raises(UserError, match="cannot be reached"):
        open_remote(url)


def test_who_hangs_up_loses_only_its_own_work():
    go, seen = threading.Event(), []

    def length(prompt: str, picture: Image.Image) -> float:
        seen.append(prompt)
        assert go.wait(10)
        return len(prompt)

    images = [base64.b64encode(encoded(PAIR)).decode()] * 100
    body = json.dumps({"prompts": ["left"] * 100, "images": images}).encode()
    head = f"POST /score HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with serving(scorer_of(from_function("length", length))) as url:
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as client:
            client.sendall(head.encode() + body)
            while not seen:
                time.sleep(0.01)
        time.sleep(0.3)
        go.set()
        assert open_remote(url).score(["stays"], [PAIR]).tolist() == [5]
    assert seen.count("left") <= 8  # what the threads had in their hands


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8000", "ftp://host", "http://", "http://host:port", "http://a:b@host", "http://host/?a=b"]
)
def test_an_address_that_is_none(url):
    with pytest.raises(UserError, match="is no service's address; give one such as http://127"):
        open_remote(url)


@contextlib.contextmanager
def answering(*answers: tuple[int, str]) -> Iterator[str]:
    """A server that gives these answers in turn, and the last for ever."""
    left = list(answers)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, text = left.pop(0) if len(left) > 1 else left[0]
            self.send_response(status)
            self.send_header("Retry-After", "0")
            self.end_headers()
            self.wfile.write(text.encode())

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "text", "told"),
    [
        (200, "<html>", "answered 200 and not as a palate service does"),
        (404, '{"detail": "Not Found"}', "Not Found"),
        (200, "[]", "does not list scorers; is it a palate service?"),
        (200, '{"scorers": [{}], "limits": {}}', "does not list scorers"),
        (302, "", "answered 302 and not as a palate service does"),
    ],
)
def test_another_server_is_told(status, text, told):
    with answering((status, text)) as url, pytest.raises(UserError, match=r"^http://127") as error:
        open_remote(url)
    assert told in str(error.value)


def remote(url: str, timeout: float = 5) -> RemoteReward:
    from palate.rewards.service.connection import HttpService

    return RemoteReward(HttpService(url, timeout=timeout), "one", {}, True, "", 10, 10**6)


def test_a_full_service_is_asked_again_until_the_time_is_over():
    full, good = (503, '{"detail": "9 requests wait already"}'), (200, '{"scores": {"one": [2.5]}, "errors": {}}')
    with answering(full, full, good) as url:
        assert remote(url).score([""], [PAIR]).tolist() == [2.5]
    with answering(full) as url, pytest.raises(PalateError, match="9 requests wait already"):
        remote(url, timeout=0.3).score([""], [PAIR])


@pytest.mark.parametrize(
    "answer",
    [
        {"scores": {"one": [1, 2]}, "errors": {}},
        {"scores": {"other": [1]}, "errors": {}},
        {"scores": {"one": ["x"]}},
        3,
    ],
)
def test_scores_that_do_not_belong_to_the_pictures_are_no_scores(answer):
    with answering((200, json.dumps(answer))) as url, pytest.raises(PalateError, match="not answer with 1 scores; is"):
        remote(url).score([""], [PAIR])


def test_a_service_that_is_silent_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(PalateError, match=r"did not answer within 0.2 seconds"):
            remote(url, timeout=0.2).score([""], [PAIR])
