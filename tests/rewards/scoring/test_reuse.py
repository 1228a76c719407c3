"""Scores that are on record: where they are found, and which libraries they are said to come from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from palate.rewards.function import from_function
from palate.rewards.scorer import Scorer, scorer_of
from palate.rewards.scoring import batch
from palate.rewards.scoring.batch import Scored, score_images, score_in_passes
from palate.rewards.scoring.history import Answer, Column, History, Record, text_of
from palate.rewards.scoring.log import ScoreLog, Terms

OLD, NEW, LAST = ({**batch.versions(), "torch": torch} for torch in ("1.0-OLD", "2.0-NEW", "3.0-LAST"))


def tone(prompt: str, image: Image.Image) -> float:
    return float(image.convert("L").getpixel((0, 0))) + len(prompt)


def paint(file: Path, grey: int) -> None:
    Image.new("L", (4, 4), grey).save(file)


@pytest.fixture
def pictures(tmp_path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        paint(folder / f"{number}.png", 10 * number)
    return folder


@pytest.fixture
def score(pictures, tmp_path, monkeypatch):
    """`score(versions, out, ...)` scores the pictures under these versions, with a function that needs no prompt."""
    plain = scorer_of(from_function("tone", tone, "1", needs_prompts=False))

    def call(versions: dict, out: str, scorer: Scorer = plain, source: Path = pictures, **kwargs) -> Scored:
        monkeypatch.setattr(batch, "versions", lambda: versions)
        return score_images(source, [scorer], tmp_path / out, **kwargs)

    return call


def meta(folder: Path) -> dict:
    return json.loads((folder / "scores.meta.json").read_text())


def table(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]


def test_scores_of_another_run_keep_the_versions_that_computed_them(score, pictures, tmp_path):
    score(OLD, "old")
    assert score(NEW, "reused", reuse=[tmp_path / "old"]).new == {"tone": 0}
    assert (meta(tmp_path / "reused")["versions"], meta(tmp_path / "reused")["other_versions"]) == (NEW, [OLD])
    paint(pictures / "3.png", 30)
    assert score(NEW, "old").new == {"tone": 1}  # one picture more: another list in the same folder
    assert meta(tmp_path / "old")["other_versions"] == [OLD]
    assert score(LAST, "third", reuse=[tmp_path / "old"], batch_size=3).new == {"tone": 0}
    assert meta(tmp_path / "third")["other_versions"] == [OLD, NEW]
    for place in range(3):
        (pictures / f"{place}.png").unlink()
    score(LAST, "fourth", reuse=[tmp_path / "third"])
    assert meta(tmp_path / "fourth")["other_versions"] == [NEW]  # what is left is this one's
    score(NEW, "fifth", reuse=[tmp_path / "third"])
    assert "other_versions" not in meta(tmp_path / "fifth")


def test_each_pass_reuses_what_there_is(pictures, tmp_path):
    one, two = (scorer_of(from_function(name, tone, "1", needs_prompts=False)) for name in ("one", "two"))
    score_images(pictures, [one, two], tmp_path / "first")
    passes = [lambda: [one], lambda: [two]]
    done = score_in_passes(pictures, passes, tmp_path / "out", batch_size=2, reuse=[tmp_path / "first"])
    assert done.new == {"one": 0, "two": 0}


def test_in_one_block_each_score_keeps_its_own_versions(score, pictures, tmp_path):
    down = True

    def moody(prompt: str, image: Image.Image) -> float:
        if down and tone(prompt, image) == 10:
            raise OSError("down")
        return tone(prompt, image)

    scorer = scorer_of(from_function("moody", moody, "1", needs_prompts=False))
    score(OLD, "out", scorer)
    down = False
    assert score(NEW, "out", scorer).new == {"moody": 1}
    assert meta(tmp_path / "out")["other_versions"] == [OLD]
    for place in (0, 2):
        (pictures / f"{place}.png").unlink()
    score(LAST, "one", scorer, reuse=[tmp_path / "out"])
    assert meta(tmp_path / "one")["other_versions"] == [NEW]


def test_versions_whose_scores_are_all_replaced_are_not_named(score, pictures, tmp_path):
    score(OLD, "out")
    for place in range(3):
        paint(pictures / f"{place}.png", 100 + place)
    assert score(NEW, "out").new == {"tone": 3}
    assert "other_versions" not in meta(tmp_path / "out")


@pytest.mark.parametrize(("told", "named"), [({"versions": OLD}, [OLD]), ({}, None)])
def test_a_log_that_was_written_before_is_read(score, tmp_path, told, named):
    score(LAST, "out")
    log = tmp_path / "out/log-0-of-1.jsonl"
    line = json.loads(log.read_text())
    assert set(line) == {"plan", "block", "turn", "versions", "rows", "scores"}
    assert set(line["scores"]["tone"]) == {"settings", "values", "errors"}  # as ever where all is of one kind
    del line["versions"]
    log.write_text(json.dumps({**line, **told}) + "\n")
    before = log.read_bytes()
    for out, reuse in (("out", ()), ("other", [tmp_path / "out"])):
        assert score(NEW, out, reuse=reuse).new == {"tone": 0}
        assert meta(tmp_path / out).get("other_versions") == named
    assert log.read_bytes() == before
    score(LAST, "third", reuse=[tmp_path / "other"])
    assert meta(tmp_path / "third").get("other_versions") == named


def test_a_line_is_read_as_it_was_written():
    rows = tuple({"key": str(n), "image": "a", "prompt": None, "sha256": "x"} for n in range(4))
    old, new = text_of(OLD), text_of(NEW)
    answers = [Answer(1.0, versions=new), Answer(2.0, versions=old), Answer(reason="no"), Answer(3.0)]
    mixed = Record("plan", 0, rows, {"a": Column.of("s", answers), "b": Column.of("s", [Answer(reason="no")] * 4)}, 2)
    assert Record.from_line(mixed.to_line()) == mixed
    found = History((mixed,)).versions()
    assert found == {("a", new), ("a", old)}


class Grey:
    """A network: the mean level and the prompt's length, and what it was asked."""

    name, modality, differentiable = "grey", "image", False

    def __init__(self, needs_prompts: bool) -> None:
        self.needs_prompts, self.asked = needs_prompts, []

    def score(self, prompts, media, failures=None):
        raise NotImplementedError

    def prepare(self, picture: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.asarray(picture.convert("RGB"), dtype=np.float32)).permute(2, 0, 1)

    def score_pixels(self, prompts, pixels):
        self.asked += prompts
        return pixels.mean(dim=(1, 2, 3)) + torch.tensor([float(len(prompt)) for prompt in prompts])


def test_a_scorer_that_sees_no_prompt_scores_a_picture_once_whatever_its_prompts(score, pictures, tmp_path):
    rows = [{"image": f"{n % 2}.png", "prompt": "p" * (n + 1)} for n in range(10)]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "0.png").write_bytes((pictures / "0.png").read_bytes())
    (tmp_path / "1.png").write_bytes((pictures / "1.png").read_bytes())
    blind, seeing = Grey(needs_prompts=False), Grey(needs_prompts=True)
    for reward, new, asked in ((blind, 2, [""] * 2), (seeing, 10, [row["prompt"] for row in rows])):
        out, scorer = f"out{new}", scorer_of(reward, weights="1")  # type: ignore[arg-type]
        assert score(NEW, out, scorer, tmp_path / "list.jsonl").new == {"grey": new}
        assert reward.asked == asked
        expected = [10 * (n % 2) + (n + 1 if reward is seeing else 0) for n in range(10)]
        assert [row["grey"] for row in table(tmp_path / out)] == expected
        assert [row["prompt"] for row in table(tmp_path / out)] == [row["prompt"] for row in rows]
    # Without prompts, and with others: nothing is new but the third picture.
    blind_one = scorer_of(blind, weights="1")  # type: ignore[arg-type]
    assert score(NEW, "out2", blind_one).new == {"grey": 1}
    (tmp_path / "list.jsonl").write_text("\n".join(json.dumps({**row, "prompt": "other"}) for row in rows))
    assert score(NEW, "more", blind_one, tmp_path / "list.jsonl", reuse=[tmp_path / "out2"]).new == {"grey": 0}
    seeing_one = scorer_of(seeing, weights="1")  # type: ignore[arg-type]
    assert score(NEW, "rest", seeing_one, tmp_path / "list.jsonl", reuse=[tmp_path / "out10"]).new == {"grey": 2}


def test_a_function_that_needs_no_prompt_is_called_once_and_given_none(score, pictures, tmp_path):
    asked = []
    scorer = scorer_of(from_function("count", lambda prompt, _: float(asked.append(prompt) or 7), "1", False))
    (pictures / "list.jsonl").write_text("\n".join(json.dumps({"image": "0.png", "prompt": p}) for p in "abcd"))
    assert score(NEW, "out", scorer).new == {"count": 1}
    assert asked == [""]


def test_a_failure_elsewhere_does_not_hide_a_later_score(tmp_path):
    row = {"key": "k", "image": "k", "prompt": "p", "sha256": "x"}
    answers = [Answer(reason="down"), Answer(5.0, versions=text_of(OLD)), Answer(reason="down again")]
    lines = [Record(f"plan {n}", 0, (row,), {"a": Column.of("s", [one])}).to_line() for n, one in enumerate(answers)]
    (tmp_path / "log-1-of-2.jsonl").write_bytes(b"".join(lines))
    with ScoreLog(tmp_path, "mine", {"a": Terms("s")}) as log:
        assert log.reused("a", "x", "p") == Answer(5.0, versions=text_of(OLD))
        assert log.reused("a", "x", "q") == log.reused("a", "y", "p") == Answer()
        log.turn_to({"a": Terms("other")})
        assert log.reused("a", "x", "p") == Answer()


def test_of_several_failures_the_latest_is_told(score, pictures, tmp_path):
    reasons = ["cold", "wet"]

    def broken(prompt: str, image: Image.Image) -> float:
        raise OSError(reasons[0])

    scorer = scorer_of(from_function("broken", broken, "1", needs_prompts=False))
    for reason in ("cold", "wet"):
        assert score(NEW, "out", scorer).new == {"broken": 0}
        assert {row["error"] for row in table(tmp_path / "out")} == {reason}
        reasons.pop(0)
