"""The log of answers: whole lines count, half ones do not, and nobody else writes it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from palate.errors import UserError
from palate.t2i.build.captions.answers import Answer, AnswerLog, first_line, identity, tidy

ONE, TWO = {"a": Answer("één 🎨"), "b": Answer(None, "nothing")}, {"c": Answer("half \ud83d")}


def test_what_is_added_is_found_again(tmp_path):
    file = tmp_path / "deep" / "log.jsonl"
    with AnswerLog(file) as log:
        log.add(ONE)
        log.add(TWO)
        assert log.find("b") == Answer(None, "nothing")
    with AnswerLog(file) as log:
        assert {key: log.find(key) for key in "abc"} == {**ONE, **TWO}
        assert ("a" in log, "d" in log, log.find("d")) == (True, False, None)
    assert len(file.read_bytes().splitlines()) == 2


@pytest.mark.parametrize("cut", [1, 7, 20])
def test_a_half_line_is_dropped(tmp_path, cut):
    file = tmp_path / "log.jsonl"
    with AnswerLog(file) as log:
        log.add(ONE)
        whole = file.read_bytes()
        log.add(TWO)
    both = file.read_bytes()
    file.write_bytes(both[:-cut])
    with AnswerLog(file) as log:
        assert file.read_bytes() == whole
        assert ("a" in log, "c" in log) == (True, False)
        log.add(TWO)
    assert file.read_bytes() == both


def test_a_damaged_line_costs_its_own_answers(tmp_path):
    file = tmp_path / "log.jsonl"
    file.write_bytes(b"{damaged\n" + json.dumps({"a": ["x", ""]}).encode() + b"\n")
    with AnswerLog(file) as log:
        assert log.find("a") == Answer("x")


def test_a_log_without_answers_leaves_no_file(tmp_path):
    with AnswerLog(tmp_path / "log.jsonl"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_one_writer_at_a_time(tmp_path):
    script = (
        "import sys; from pathlib import Path; from palate.t2i.build.captions.answers import AnswerLog\n"
        "with AnswerLog(Path(sys.argv[1])): print('open', flush=True); sys.stdin.read()"
    )
    file = tmp_path / "log.jsonl"
    command = [sys.executable, "-c", script, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "open\n"
        with pytest.raises(UserError, match="another process is writing"):
            AnswerLog(file).__enter__()
        other.stdin.close()
    with AnswerLog(file) as log:
        log.add(ONE)


def test_tidy():
    assert tidy('  "a\n dog" ') == "a dog"
    assert tidy('"a" and "b"') == '"a" and "b"'
    assert tidy("<think>two\nlines</think>\n\na dog.") == tidy("lines</think>a dog.") == "a dog."
    assert tidy("<think>two\nlines, a dog") == ""
    assert (tidy('"'), tidy(" \n"), tidy("«x»")) == ('"', "", "x")
    assert tidy("half \ud83d an emoji") == "half an emoji"
    assert (first_line("\n\n a \nb"), first_line(" \n")) == (" a ", "")


def test_identity_is_of_contents(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"x" * 9)
    (tmp_path / "two" / "README.md").write_text("for people")
    assert identity(str(tmp_path / "one")) == identity(str(tmp_path / "two"))
    (tmp_path / "two" / "model.safetensors").write_bytes(b"y" * 9)
    assert identity(str(tmp_path / "one")) != identity(str(tmp_path / "two"))
    assert identity("owner/name") == "owner/name"
