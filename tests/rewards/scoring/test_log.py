"""What counts of several records of one picture: its bytes, its prompt and how it was turned decide, never a file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from palate.rewards.function import from_function
from palate.rewards.scorer import Scorer, scorer_of
from palate.rewards.scoring.batch import score_images, score_in_passes
from palate.rewards.scoring.history import Answer, Column, History, Record
from palate.rewards.scoring.log import ScoreLog, Terms

CHANGED = "the picture changed after it was scored; score again"


def paint(file: Path, grey: int) -> None:
    Image.new("L", (4, 4), grey).save(file)


def tone(prompt: str, image: Image.Image) -> float:
    return float(image.convert("L").getpixel((0, 0)))


def scorers(*names: str) -> list[Scorer]:
    return [scorer_of(from_function(name, tone, "1", needs_prompts=False)) for name in names]


@pytest.fixture
def pictures(tmp_path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(6):
        paint(folder / f"{number}.png", 10 * number)
    return folder


def table(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]


def tables(out: Path) -> list[bytes]:
    return [(out / name).read_bytes() for name in ("scores.parquet", "scores.jsonl", "scores.meta.json")]


def test_another_scorers_record_does_not_lend_its_rows_to_an_old_score(pictures, tmp_path):
    out = tmp_path / "out"
    score_images(pictures, scorers("a"), out, batch_size=3)
    old = (pictures / "1.png").read_bytes()
    paint(pictures / "1.png", 200)
    score_images(pictures, scorers("b"), out, batch_size=3)
    assert score_images(pictures, scorers("a"), out, batch_size=3).new == {"a": 1}
    assert [row["a"] for row in table(out)] == [0, 200, 20, 30, 40, 50]
    score_images(pictures, scorers("a"), tmp_path / "fresh", batch_size=3)
    assert tables(out) == tables(tmp_path / "fresh")
    assert score_images(pictures, scorers("a"), out, batch_size=3).new == {"a": 0}
    (pictures / "1.png").write_bytes(old)
    assert score_images(pictures, scorers("a", "b"), out, batch_size=3).new == {"a": 0, "b": 1}
    assert [(row["a"], row["b"]) for row in table(out)][1] == (10, 10)


def test_a_picture_that_changes_between_two_passes_has_no_score_of_the_first(pictures, tmp_path):
    def second() -> list[Scorer]:
        paint(pictures / "1.png", 200)
        return scorers("b")

    score_in_passes(pictures, [lambda: scorers("a"), second], tmp_path / "out", batch_size=3)
    row = table(tmp_path / "out")[1]
    assert (row["a"], row["b"], row["error"]) == (None, 200, f"a: {CHANGED}")
    done = score_in_passes(pictures, [lambda: scorers("a"), lambda: scorers("b")], tmp_path / "out", batch_size=3)
    assert done.new == {"a": 1, "b": 0}
    score_images(pictures, scorers("a", "b"), tmp_path / "fresh", batch_size=3)
    assert tables(tmp_path / "out") == tables(tmp_path / "fresh")


@pytest.mark.parametrize("first", [2, 1])
def test_of_several_logs_the_latest_counts_whatever_the_files_are_called(pictures, tmp_path, first):
    out = tmp_path / "out"
    for count in (first, 3 - first):
        for number in range(count):
            score_images(pictures, scorers("a"), out, batch_size=3, shard=(number, count))
        paint(pictures / "4.png", 100 + count)
    expected = [0, 10, 20, 30, 100 + first, 50]
    assert [row["a"] for row in table(out)] == expected
    assert score_images(pictures, scorers("a"), out, batch_size=3).new == {"a": 1}
    assert [row["a"] for row in table(out)] == [*expected[:4], 103 - first, 50]
    score_images(pictures, scorers("a"), tmp_path / "fresh", batch_size=3)
    assert tables(out) == tables(tmp_path / "fresh")


def test_a_turned_pictures_scores_are_not_those_of_the_picture_as_stored(tmp_path):
    pictures, exif = tmp_path / "pictures", Image.Exif()
    pictures.mkdir()
    exif[0x0112] = 6
    Image.new("RGB", (8, 5)).save(pictures / "a.png", exif=exif)
    width = scorer_of(from_function("width", lambda prompt, image: float(image.width), "1", needs_prompts=False))
    score_images(pictures, [width], tmp_path / "out")
    assert score_images(pictures, [width], tmp_path / "out", upright=False).new == {"width": 1}
    assert table(tmp_path / "out")[0]["width"] == 8
    done = score_images(pictures, [width], tmp_path / "more", batch_size=2, reuse=[tmp_path / "out"])
    assert (done.new, table(tmp_path / "more")[0]["width"]) == ({"width": 0}, 5)
    done = score_images(pictures, [width], tmp_path / "less", batch_size=2, upright=False, reuse=[tmp_path / "more"])
    assert (done.new, table(tmp_path / "less")[0]["width"]) == ({"width": 1}, 8)


def test_what_failed_is_tried_again_and_nothing_else(pictures, tmp_path):
    down, calls = True, []

    def service(prompt: str, image: Image.Image) -> float:
        calls.append(tone(prompt, image))
        if down and calls[-1] >= 40:
            raise OSError("the service is down")
        return calls[-1]

    moody = [scorer_of(from_function("moody", service, "1", needs_prompts=False))]
    done = score_images(pictures, moody, tmp_path / "out", batch_size=4)
    assert done.failures == {"moody": 2}
    before, log = tables(tmp_path / "out"), (tmp_path / "out/log-0-of-1.jsonl").read_bytes()
    assert score_images(pictures, moody, tmp_path / "out", batch_size=4).failures == {"moody": 2}
    assert tables(tmp_path / "out") == before
    assert (tmp_path / "out/log-0-of-1.jsonl").read_bytes() == log
    assert sorted(calls) == [0, 10, 20, 30, 40, 40, 50, 50]
    down = False
    done = score_images(pictures, moody, tmp_path / "out", batch_size=4)
    assert (done.new, done.failures) == ({"moody": 2}, {"moody": 0})
    score_images(pictures, moody, tmp_path / "fresh", batch_size=4)
    assert tables(tmp_path / "out") == tables(tmp_path / "fresh")


def test_half_a_surrogate_pair_is_no_prompt(pictures, tmp_path, gelu_folder):
    from palate.rewards.scorer import open_scorer

    rows = [{"image": "0.png", "prompt": "cat \ud83d x"}, {"image": "0.png", "prompt": "cat \U0001f600 x"}]
    (pictures / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = score_images(pictures / "list.jsonl", [open_scorer("pickscore", weights=gelu_folder)], tmp_path / "out")
    first, second = table(tmp_path / "out")
    assert (first["pickscore"], first["error"]) == (None, "the prompt is not valid Unicode")
    assert second["pickscore"] is not None
    assert (done.new, done.failures) == ({"pickscore": 1}, {"pickscore": 1})


def record(turn: int, sha256: str, **scores: float | None) -> Record:
    row = {"key": "k", "image": "k", "prompt": "p", "sha256": sha256}
    columns = {
        name: Column("s", (value,), {} if value is not None else {0: "failed"}) for name, value in scores.items()
    }
    return Record("plan", 0, (row,), columns, turn)


def test_a_history_answers_for_bytes_and_prompt_and_shows_the_newest_row():
    history = History((record(1, "x", a=1.0), record(2, "y", a=2.0), record(3, "x", a=None), record(4, "y", b=3.0)))
    assert history.find("a", 0, "x", "p") == Answer(1.0)
    assert history.find("a", 0, "y", "p") == Answer(2.0)
    assert history.find("b", 0, "x", "p") == history.find("a", 0, "x", "q") == Answer()
    newest = history.newest()
    assert newest is not None
    assert (newest.turn, newest.columns["a"].values, newest.columns["b"].values) == (4, (2.0,), (3.0,))
    assert History((record(1, "x", a=None),)).find("a", 0, "x", "p") == Answer(reason="failed")
    assert History((record(1, "x"),)).newest() is None


def test_a_log_without_turns_is_older_than_any_with(tmp_path):
    content = json.loads(record(0, "x", a=1.0).to_line())
    del content["turn"]
    (tmp_path / "log-1-of-2.jsonl").write_text(json.dumps(content) + "\n")
    with ScoreLog(tmp_path, "plan", {"a": Terms("s")}) as log:
        log.append(record(0, "y", a=2.0))
        newest = log.block(0)
    assert newest is not None
    assert (newest.turn, newest.rows[0]["sha256"], newest.columns["a"].values) == (1, "y", (2.0,))
    assert Record.from_line(record(7, "x", a=1.0).to_line()) == record(7, "x", a=1.0)


def test_a_record_is_on_the_disk_when_append_returns(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append((os.fstat(file).st_ino, os.fstat(file).st_size)))
    with ScoreLog(tmp_path, "plan", {"a": Terms("s")}) as log:
        for turn in (1, 2):
            log.append(record(turn, "x", a=1.0))
            told = log.file.stat()
            assert synced[-1:] == [(told.st_ino, told.st_size)]
