"""The HTTP service: values, reasons, limits, the token, and clients that leave."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import pickle
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from palate.datasets.shapes.world import Shape, render
from palate.rewards.function import from_function
from palate.rewards.pickscore import PickScore, open_pickscore
from palate.rewards.scorer import open_scorer, scorer_of
from palate.rewards.service.app import create_app
from palate.rewards.service.request import Limits

PAIR = render([Shape("circle", "red", 9, 10, 5), Shape("cross", "blue", 22, 12, 5)])
PROMPTS = [
    "a photo of a red circle and a blue cross",
    "a photo of a red circle and a red cross",
    "a photo of a cross left of a circle",
]
MARKS = [1, 1 / 3, 3 / 4]  # counted by hand: demands of the prompt that the picture fulfils


def file_of(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def text_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def noise(seed: int, side: int = 40) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def claims(width: int, height: int) -> bytes:
    """A PNG of a size that nothing backs: all its pixels are a few compressed zeros."""
    chunks = {b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT": zlib.compress(bytes(1000))}
    packed = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in (chunks | {b"IEND": b""}).items()
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


PNG = file_of(PAIR)


def width_of(picture_width: int = 0):
    return scorer_of(from_function("width", lambda prompt, picture: picture.width, needs_prompts=False))


@pytest.fixture
def oracle():
    with TestClient(create_app([open_scorer("shapes_oracle"), width_of()])) as client:
        yield client


def test_json_and_a_form_give_the_values_and_the_reasons(oracle):
    pictures, prompts = [PNG, PNG, PNG, PNG[:60], b"", PNG], [*PROMPTS, PROMPTS[0], PROMPTS[0], "a dog"]
    asked = {"prompts": prompts, "images": list(map(text_of, pictures)), "scorers": ["shapes_oracle"]}
    answer = oracle.post("/score", json=asked)
    assert answer.status_code == 200
    found = answer.json()
    assert found["scores"]["shapes_oracle"] == [*(pytest.approx(mark) for mark in MARKS), None, None, None]
    reasons = found["errors"]["shapes_oracle"]
    assert list(reasons) == ["3", "4", "5"]
    assert (reasons["3"], reasons["4"]) == ("truncated", "0 bytes")
    assert "a dog" in reasons["5"]
    form = oracle.post(
        "/score",
        data={"prompts": prompts, "scorers": "shapes_oracle"},
        files=[("images", (f"{number}.png", data)) for number, data in enumerate(pictures)],
    )
    assert form.json() == found


def test_all_scorers_where_none_is_named_and_prompts_only_for_those_that_need_them(oracle):
    found = oracle.post("/score", json={"images": [text_of(PNG)] * 2, "prompts": [None, PROMPTS[2]]}).json()
    assert found == {
        "scores": {"shapes_oracle": [None, 0.75], "width": [32, 32]},
        "errors": {"shapes_oracle": {"0": "no prompt"}},
    }
    found = oracle.post("/score", files=[("images", ("a.png", PNG))], data={"scorers": ["width"]}).json()
    assert found == {"scores": {"width": [32]}, "errors": {}}


def test_a_blank_prompt_is_none():
    with TestClient(create_app([scorer_of(from_function("length", lambda prompt, picture: len(prompt)))])) as client:
        asked = {"images": [text_of(PNG)] * 3, "prompts": ["", " \n", "ab"]}
        expected = {"scores": {"length": [None, None, 2]}, "errors": {"length": {"0": "no prompt", "1": "no prompt"}}}
        assert client.post("/score", json=asked).json() == expected
        files = [("images", (f"{number}.png", PNG)) for number in range(3)]
        assert client.post("/score", data={"prompts": asked["prompts"]}, files=files).json() == expected


def test_a_tiny_clip_gives_every_client_what_it_gives_alone(gelu_folder):
    reward = open_pickscore(gelu_folder)
    pictures = [noise(seed, 30 + seed) for seed in range(24)]
    prompts = [f"{'a big red dog ' * (index % 5)}{index}" for index in range(24)]
    alone = [float(reward.score([prompt], [picture])[0]) for prompt, picture in zip(prompts, pictures, strict=True)]
    assert np.ptp(alone) > 0.1
    sizes, prepared, complete = [], [], threading.Event()

    class Watched(PickScore):
        def prepare(self, picture):
            prepared.append(picture.size)
            if len(prepared) == 24:
                complete.set()
            return super().prepare(picture)

        def score_pixels(self, prompts, pixels):
            assert complete.wait(10)  # so that what comes after the first batch has company
            sizes.append(len(prompts))
            return super().score_pixels(prompts, pixels)

    with TestClient(create_app([scorer_of(Watched(reward.tower))], batch_size=8)) as client:

        def ask(start: int) -> list[float]:
            spread = slice(start, None, 6)
            images = [text_of(file_of(picture)) for picture in pictures[spread]]
            return client.post("/score", json={"prompts": prompts[spread], "images": images}).json()["scores"]

        with ThreadPoolExecutor(6) as clients:
            answers = list(clients.map(ask, range(6)))
    for start, answer in enumerate(answers):
        assert answer["pickscore"] == pytest.approx(alone[start::6], abs=1e-4)  # 1e-6 of the cosine, times 100
    assert sum(sizes) == 24
    assert max(sizes) == 8  # two clients' pictures at least


@pytest.mark.parametrize(
    ("body", "code", "told"),
    [
        (b"{", 422, "Invalid JSON"),
        ({"prompts": ["a"]}, 422, "images: Field required"),
        ({"images": "x"}, 422, "images: Input should be a valid array"),
        ({"images": ["", 3]}, 422, "images.1: Input should be a valid string"),
        ({"images": ["!"], "prompts": ["a"]}, 422, "images.0: not base64"),
        ({"images": ["", "data:image/png;base64,AAAA"]}, 422, "images.1: not base64"),
        ({"images": []}, 422, "there are no images"),
        ({"images": ["", ""], "prompts": ["a"]}, 422, "got 1 prompts and 2 images; send one prompt for each"),
        ({"images": [""], "scorers": ["pickscor"]}, 422, "no scorer 'pickscor' here; there are shapes_oracle, width"),
        ({"images": [""], "image": 1}, 422, "image: Extra inputs are not permitted"),
        ({"images": [""] * 5}, 413, "got 5 images; a request may have 4"),
        ({"images": ["A" * 2000]}, 413, "the request has more than 1,000 bytes"),
    ],
)
def test_bad_json_is_refused_with_one_line(body, code, told):
    app = create_app([open_scorer("shapes_oracle"), width_of()], limits=Limits(bytes=1000, images=4))
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    with TestClient(app) as client:
        answer = client.post("/score", content=body, headers={"Content-Type": "application/json; charset=utf-8"})
    assert (answer.status_code, list(answer.json())) == (code, ["detail"])
    assert told in answer.json()["detail"]
    assert "\n" not in answer.json()["detail"]


@pytest.mark.parametrize(
    ("files", "data", "code", "told"),
    [
        ([("image", ("a.png", PNG))], {}, 422, "there is no field 'image'; there are images, prompts, scorers"),
        ([("prompts", ("a.txt", b"x"))], {}, 422, "prompts are sent as text"),
        ([("other", ("a.png", b""))], {"images": "x"}, 422, "images are sent as files"),
        ([("images", ("a.png", PNG))], {"prompts": ["a", "b"]}, 422, "got 2 prompts and 1 images"),
        ([("images", ("a.png", PNG))] * 5, {}, 413, "Too many files"),
        ([("images", ("a.png", PNG * 100))], {}, 413, "more than 20,000 bytes"),
    ],
)
def test_a_bad_form_is_refused_with_one_line(files, data, code, told):
    with TestClient(create_app([width_of()], limits=Limits(bytes=20_000, images=4))) as client:
        answer = client.post("/score", files=files, data=data)
    assert answer.status_code == code
    assert told in answer.json()["detail"]


def part(head: str, body: bytes) -> bytes:
    return f"--cut\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + body + b"\r\n"


def post_form(body: bytes, charset: str = ""):
    with TestClient(create_app([scorer_of(from_function("length", lambda prompt, _: len(prompt)))])) as client:
        kind = f"multipart/form-data; boundary=cut{charset}"
        return client.post("/score", content=body, headers={"Content-Type": kind})


IMAGE = part('name="images"; filename="a.png"', PNG)


def test_a_form_that_is_cut_off_is_refused_wherever_it_is_cut():
    whole = IMAGE + part('name="prompts"', b"two") + IMAGE + part('name="prompts"', b"three") + b"--cut--"
    assert post_form(whole).json() == {"scores": {"length": [3, 5]}, "errors": {}}
    assert post_form(whole + b"\r\n").status_code == 200
    ends = [0, 1, 30, 200, len(IMAGE), len(IMAGE) + 70, *range(len(whole) - 70, len(whole), 7), len(whole) - 1]
    for end in ends:  # before, within and after a file and a prompt, and one byte before the end
        answer = post_form(whole[:end])
        assert (answer.status_code, answer.json()) == (
            422,
            {"detail": "the form is cut off: its closing boundary is missing"},
        ), end
    assert post_form(b"--cut--\r\n").json() == {"detail": "there are no images"}


@pytest.mark.parametrize("charset", ["", "; charset=utf-8", '; charset="latin-1"'])
def test_a_forms_text_is_utf8_or_refused(charset):
    ends = b"--cut--\r\n"
    asked = IMAGE + part('name="prompts"', "é ü 犬".encode()) + ends
    assert post_form(asked, charset).json() == {"scores": {"length": [5]}, "errors": {}}
    answer = post_form(IMAGE + part('name="prompts"', "un café".encode("latin-1")) + ends, charset)
    assert (answer.status_code, answer.json()) == (
        422,
        {"detail": "prompts.0: not UTF-8 (unexpected end of data at byte 6)"},
    )


def test_nothing_is_unpickled(oracle):
    for kind in ("application/octet-stream", "application/python-pickle", "text/plain", ""):
        answer = oracle.post("/score", content=pickle.dumps([PNG]), headers={"Content-Type": kind})
        assert (answer.status_code, "send application/json" in answer.json()["detail"]) == (415, True)


def test_what_a_stranger_may_send_costs_no_memory_and_no_other_program(oracle):
    eps = file_of(PAIR, "EPS")
    assert Image.open(io.BytesIO(eps)).format == "EPS"  # Pillow would run Ghostscript on it
    images = [claims(100_000, 100_000), claims(12_000, 12_000), eps, PNG]
    found = oracle.post("/score", json={"images": list(map(text_of, images)), "scorers": ["width"]}).json()
    assert found["scores"]["width"] == [None, None, None, 32]
    reasons = found["errors"]["width"]
    assert reasons["0"] == reasons["1"] == "more than 89,478,485 pixels"
    assert reasons["2"] == "not an image of a format that is read: PNG, JPEG, WEBP, AVIF, GIF, BMP, TIFF, PPM, JPEG2000"


def test_values_that_are_no_numbers_and_prompts_without_end():
    values = scorer_of(from_function("value", lambda prompt, picture: float(prompt)))
    with TestClient(create_app([values, width_of()], limits=Limits(characters=20))) as client:
        asked = {"prompts": ["nan", "-inf", "2", "1" * 21], "images": [text_of(PNG)] * 4}
        found = client.post("/score", json=asked).json()
    assert found == {
        "scores": {"value": [None, None, 2.0, None], "width": [32, 32, 32, 32]},
        "errors": {
            "value": {
                "0": "the reward returned NaN",
                "1": "the reward returned -inf",
                "3": "the prompt has more than 20 characters",
            }
        },
    }


def test_a_scorer_that_breaks_off_gives_no_score_and_goes_on(gelu_folder):
    def moody(prompt: str, picture: Image.Image) -> float:
        if prompt == "bad":
            raise RuntimeError("CUDA error: device-side assert\nmore")
        return 1.0

    class Narrow(PickScore):
        def prepare(self, picture):
            raise MemoryError

    scorers = [scorer_of(from_function("moody", moody)), scorer_of(Narrow(open_pickscore(gelu_folder).tower))]
    told = []
    with TestClient(create_app(scorers)) as client:
        for prompts, name in ((["good", "bad"], "moody"), (["good"], "pickscore"), (["good"], "moody")):
            asked = {"prompts": prompts, "images": [text_of(PNG)] * len(prompts), "scorers": [name]}
            answer = client.post("/score", json=asked)
            told.append((answer.status_code, answer.json().get("detail")))
    assert told == [
        (500, "the scorer moody failed (RuntimeError: CUDA error: device-side assert)"),
        (500, "MemoryError"),
        (200, None),
    ]


def test_a_photograph_is_turned_as_people_see_it():
    exif = Image.Exif()
    exif[0x0112] = 6
    asked = {"images": [text_of(file_of(Image.new("RGB", (20, 10)), "JPEG", exif=exif))]}
    for upright, width in ((True, 10), (False, 20)):
        with TestClient(create_app([width_of()], upright=upright)) as client:
            assert client.post("/score", json=asked).json()["scores"]["width"] == [width]


def test_the_token_is_needed_for_all_but_health():
    with TestClient(create_app([width_of()], token="s3cret")) as client:
        for given in ({}, {"Authorization": "Bearer s3cre"}, {"Authorization": "s3cret"}, {"Authorization": "Bearer "}):
            for answer in (client.get("/scorers", headers=given), client.post("/score", content=b"x", headers=given)):
                assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
                assert answer.json() == {"detail": "send the header 'Authorization: Bearer TOKEN'"}
        assert client.get("/scorers", headers={"Authorization": "bearer s3cret"}).status_code == 200
        assert client.get("/scorers", headers={"Authorization": b"Bearer s3cr\xe9t"}).status_code == 401
        assert client.get("/health").json() == {"status": "ok"}


def test_what_there_is_and_what_the_numbers_mean(gelu_folder):
    scorer = open_scorer("pickscore", weights=gelu_folder)
    with TestClient(create_app([scorer])) as client:
        answer = client.get("/scorers").json()
    assert answer["limits"] == {"bytes": 64 * 2**20, "images": 256}
    (told,) = answer["scorers"]
    assert (told["name"], told["modality"], told["needs_prompts"]) == ("pickscore", "image", True)
    assert told["scale"].startswith("16 to 26")
    assert told["fingerprint"] == scorer.fingerprint
    assert told["settings"]["weights"].startswith("sha256 ")
    assert str(gelu_folder) not in json.dumps(answer)


def held_app(limits: Limits | None = None):
    """A service whose scorer waits for `go`, and tells in `seen` what it was asked."""
    go, seen = threading.Event(), []

    def wait(prompt: str, picture: Image.Image) -> float:
        seen.append(prompt)
        assert go.wait(10)
        return len(prompt)

    return create_app([scorer_of(from_function("wait", wait))], limits=limits, batch_size=1), go, seen


def test_a_full_service_says_so_and_its_loop_is_free():
    app, go, seen = held_app(Limits(requests=1))
    with TestClient(app) as client, ThreadPoolExecutor(1) as other:
        asked = {"images": [text_of(PNG)], "prompts": ["abc"]}
        first = other.submit(client.post, "/score", json=asked)
        while not seen:
            time.sleep(0.01)
        answer = client.post("/score", json=asked)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json() == {"detail": "1 requests wait already; try again later"}
        assert client.get("/health").status_code == 200  # while the network is at work
        assert not first.done()
        go.set()
        assert first.result(10).json()["scores"] == {"wait": [3]}
        assert client.post("/score", json=asked).status_code == 200


async def call(app, messages: list[dict], wait: threading.Event | None = None) -> list[dict]:
    """One POST to /score of an application that has started; `wait` holds back the last message."""
    sent = []
    left = list(messages)

    async def receive():
        if wait is not None and len(left) == 1:
            await asyncio.to_thread(wait.wait, 10)
        return left.pop(0) if left else await asyncio.sleep(60)

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/score",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }
    await app(scope, receive, send)
    return sent


def body_of(prompts: list[str]) -> dict:
    asked = {"prompts": prompts, "images": [text_of(PNG)] * len(prompts)}
    return {"type": "http.request", "body": json.dumps(asked).encode(), "more_body": False}


def test_a_client_that_leaves_loses_only_its_own_work():
    app, go, seen = held_app()
    leave = threading.Event()

    async def run():
        async with app.router.lifespan_context(app):
            leaving = asyncio.create_task(call(app, [body_of(["left"] * 40), {"type": "http.disconnect"}], wait=leave))
            while not seen:
                await asyncio.sleep(0.01)
            staying = asyncio.create_task(call(app, [body_of(["stays"])]))
            await asyncio.sleep(0.05)
            leave.set()
            answer = await asyncio.wait_for(leaving, 10)
            assert answer[0]["status"] == 499
            go.set()
            answer = await asyncio.wait_for(staying, 10)
            assert json.loads(answer[1]["body"]) == {"scores": {"wait": [5]}, "errors": {}}

    asyncio.run(run())
    assert seen.count("left") == 1  # the one that was at work when its client left
    assert seen.count("stays") == 1


def test_a_body_without_a_length_is_read_up_to_the_limit_only():
    app = create_app([width_of()], limits=Limits(bytes=1000))
    part = {"type": "http.request", "body": b"x" * 400, "more_body": True}

    async def run(messages):
        async with app.router.lifespan_context(app):
            return await asyncio.wait_for(call(app, messages), 10)

    sent = asyncio.run(run([part] * 1000))
    assert (sent[0]["status"], b"more than 1,000 bytes" in sent[1]["body"]) == (413, True)
    assert asyncio.run(run([part, {"type": "http.disconnect"}]))[0]["status"] == 499


def test_a_body_that_stalls_gives_its_place_back():
    app = create_app([width_of()], limits=Limits(seconds=0.2))
    part = {"type": "http.request", "body": b"x", "more_body": True}

    async def run():
        async with app.router.lifespan_context(app):
            return await asyncio.wait_for(call(app, [part]), 10)

    sent = asyncio.run(run())
    assert (sent[0]["status"], b"did not arrive within 0.2 s" in sent[1]["body"]) == (408, True)
