"""`palate score --serve`: what is refused before anything is loaded, and an orderly end."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest
from PIL import Image

from palate.cli.serve import serve
from palate.errors import UserError


@pytest.fixture(autouse=True)
def _no_token(monkeypatch):
    monkeypatch.delenv("PALATE_TOKEN", raising=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "", "example.org", "127.0.0.1.example.org"])
def test_another_host_without_a_token_is_refused(host):
    with pytest.raises(UserError, match=r"others could use it too: set the environment variable PALATE_TOKEN"):
        serve(["sharpness"], {}, "cpu", host=host, port=0)


def test_a_token_that_no_header_can_carry():
    for token in ("two words", "line\n", "schlüssel"):
        with pytest.raises(UserError, match="the token may have letters, digits and signs only"):
            serve(["sharpness"], {}, "cpu", token=token)


def test_a_token_opens_other_hosts_and_a_wrong_address_is_one_line(monkeypatch):
    monkeypatch.setenv("PALATE_TOKEN", "s3cret")
    with pytest.raises(UserError, match=r"cannot listen on 192\.0\.2\.1, port 8000 \(.*\); give another --port"):
        serve(["sharpness"], {}, "cpu", host="192.0.2.1")


def test_a_port_that_is_taken_is_told_before_the_scorers_are_opened():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"cannot listen on 127\.0\.0\.1, port {port} \(Address already in use\)"):
            serve(["hpsv2.1"], {"hpsv2.1": {"weights": "nowhere.pt"}}, "cpu", port=port)
    with pytest.raises(UserError, match=r"nowhere\.pt does not exist"):
        serve(["hpsv2.1"], {"hpsv2.1": {"weights": "nowhere.pt"}}, "cpu", port=0)
    with pytest.raises(UserError, match="port 99999"):
        serve(["sharpness"], {}, "cpu", port=99999)


@pytest.mark.parametrize("missing", ["uvicorn", "fastapi", "python_multipart"])
def test_the_extra_is_named_where_it_is_not_installed(monkeypatch, missing):
    monkeypatch.delitem(sys.modules, "palate.rewards.service.app", raising=False)
    monkeypatch.delitem(sys.modules, "palate.rewards.service.request", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError, match=rf"serving needs {missing}; run pip install 'palate\[serve\]'"):
        serve(["sharpness"], {}, "cpu", port=0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_told_to_stop(number):
    code = "from palate.cli.serve import serve; serve(['sharpness'], {}, 'cpu', port=0, token='s3cret')"
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            line = process.stderr.readline()
            found = re.fullmatch(r"sharpness on (http://127\.0\.0\.1:\d+) \(Ctrl-C stops\)\n", line)
            assert found, line + process.stderr.read()
            request = urllib.request.Request(f"{found[1]}/scorers", headers={"Authorization": "Bearer s3cret"})
            with urllib.request.urlopen(request, timeout=20) as answer:
                assert [scorer["name"] for scorer in json.load(answer)["scorers"]] == ["sharpness"]
            process.send_signal(number)
            assert (process.wait(20), process.stderr.read()) == (0, "stopped\n")
        finally:
            process.kill()


def test_a_folder_is_scored_by_a_service_as_it_is_here(tmp_path):
    """`palate score --serve` and `palate score --service`, as two processes."""
    for number, colour in enumerate(["red", "lime", "blue"]):
        Image.new("RGB", (16 + number, 16), colour).save(tmp_path / f"{colour}.png")
    palate = [sys.executable, "-m", "palate", "score"]
    command = [*palate, "--serve", "--with", "sharpness,jpeg_size", "--port", "0", "--device", "cpu"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            line = process.stderr.readline()
            found = re.search(r"http://\S+", line)
            assert found, line + process.stderr.read()
            there = [*palate, tmp_path, "--with", "sharpness,jpeg_size"]
            asked = [*there, "--out", tmp_path / "asked", "--service", found[0]]
            assert subprocess.run(asked, capture_output=True, check=False).returncode == 0
            assert (
                subprocess.run([*there, "--out", tmp_path / "here"], capture_output=True, check=False).returncode == 0
            )
            wrong = [*palate, tmp_path, "--with", "pickscore", "--service", found[0]]
            refused = subprocess.run(wrong, capture_output=True, text=True, check=False)
        finally:
            process.kill()
    assert (refused.returncode, refused.stderr) == (
        2,
        f"palate: {found[0]} has no scorer 'pickscore'; it has sharpness, jpeg_size\n",
    )
    assert (tmp_path / "asked/scores.jsonl").read_bytes() == (tmp_path / "here/scores.jsonl").read_bytes()
    meta, here = (json.loads((tmp_path / out / "scores.meta.json").read_text()) for out in ("asked", "here"))
    there = {"address": found[0], "versions": here["versions"]}
    for name in ("sharpness", "jpeg_size"):
        assert meta["scorers"][name] == {**here["scorers"][name], "service": there}
