"""Scorers that memory does not hold together, scores of earlier runs, and judges that take many pairs at once."""

import gc
import json
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from palate.errors import UserError
from palate.rewards.function import from_function
from palate.rewards.reward import BatchedReward, Failure, PixelReward, report_failure
from palate.rewards.scorer import open_scorer, scorer_of
from palate.rewards.scoring.batch import score_images, score_in_passes
from palate.rewards.scoring.passes import passes_of, plan_passes, room_gb, weights_gb

CPU = torch.device("cpu")


@pytest.fixture
def pictures(tmp_path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    rows = []
    for number in range(9):
        pixels = np.random.default_rng(number).integers(0, 256, (30 + number, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        rows.append({"image": f"{number}.png", "prompt": f"prompt {number % 4}"})
    (folder / "images.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def tables(out: Path) -> list[bytes]:
    return [(out / name).read_bytes() for name in ("scores.parquet", "scores.jsonl", "scores.meta.json")]


def test_a_pass_holds_what_fits_and_names_keep_their_order():
    needed = {"a": 2.0, "b": 2.0, "c": 3.0, "huge": 16.0, "d": 1.0, "e": 0.0}
    assert plan_passes(needed, 4.0) == [["a", "b"], ["c"], ["huge"], ["d", "e"]]
    assert plan_passes(needed, 100.0) == [list(needed)]


def test_weights_count_by_their_files_and_else_by_the_registry(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(bytes(3_000_000))
    assert weights_gb("pickscore", {"weights": tmp_path}, torch.float32) == pytest.approx(0.006)
    assert weights_gb("pickscore", {"weights": tmp_path / "model.safetensors"}, torch.bfloat16) == pytest.approx(0.003)
    assert weights_gb("pickscore", {}, None) == 2 * weights_gb("pickscore", {}, torch.float16) == 4.0
    assert weights_gb("vlm_judge", {}, None) == weights_gb("vlm_judge", {}, torch.float32) / 2
    assert weights_gb("sharpness", {}, None) == 0


def test_weights_may_take_seven_tenths_of_the_free_memory(monkeypatch):
    monkeypatch.setattr(Path, "read_text", lambda self: "MemTotal: 9 kB\nMemAvailable:   20000000 kB\n")
    assert room_gb(CPU) == pytest.approx(14.336)  # kB are 1024 bytes
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * 10**9, 80 * 10**9))
    assert room_gb(torch.device("cuda")) == pytest.approx(7)


def test_two_passes_write_what_one_writes(pictures, tmp_path, gelu_folder, hps_file, monkeypatch):
    from palate.rewards.scoring import passes

    names, assets = ["pickscore", "sharpness"], {"pickscore": {"weights": gelu_folder}}
    whole = passes_of(names, assets, CPU, torch.float32)
    monkeypatch.setattr(passes, "room_gb", lambda device: 0.0)
    each = passes_of(names, assets, CPU, torch.float32)
    assert (len(whole), len(each)) == (1, 2)
    stages: list[str] = []
    one = score_in_passes(pictures, whole, tmp_path / "one", batch_size=4)
    two = score_in_passes(
        pictures, each, tmp_path / "two", batch_size=4, advance=lambda stage, done, total: stages.append(stage)
    )
    assert one.new == two.new == {"pickscore": 9, "sharpness": 9}
    assert tables(tmp_path / "one") == tables(tmp_path / "two")
    assert list(dict.fromkeys(stages)) == ["scoring 1/2: pickscore", "scoring 2/2: sharpness"]


def test_a_pass_lets_its_networks_go_before_the_next_is_opened(pictures, tmp_path, gelu_folder):
    alive: list[weakref.ref] = []

    def first():
        scorer = open_scorer("pickscore", weights=gelu_folder)
        alive.append(weakref.ref(scorer.reward.tower.model))
        return [scorer]

    def second():
        gc.collect()
        assert alive[0]() is None
        return [open_scorer("sharpness")]

    score_in_passes(pictures, [first, second], tmp_path / "out", batch_size=4)


def test_names_are_checked_before_anything_is_opened(gelu_folder):
    for names, assets, told in [
        (["pickscore", "pickscore"], {}, "named twice"),
        (["pikscore"], {}, "did you mean pickscore"),
        (["sharpness"], {"pickscore": {"weights": gelu_folder}}, "not among the scorers"),
    ]:
        with pytest.raises(UserError, match=told):
            passes_of(names, assets, CPU, torch.float32)


def test_scores_of_another_run_are_taken_over(pictures, tmp_path):
    calls = []

    def count(prompt: str, picture: Image.Image) -> float:
        calls.append(prompt)
        return float(picture.height)

    scorer = scorer_of(from_function("height", count, version="1"))
    (tmp_path / "few.txt").write_text("\n".join(f"prompt {number % 4}" for number in range(9)))
    score_images(pictures, [scorer], tmp_path / "first", batch_size=4)
    (pictures / "images.jsonl").unlink()
    done = score_images(
        pictures, [scorer], tmp_path / "second", prompts=tmp_path / "few.txt", batch_size=2, reuse=[tmp_path / "first"]
    )
    assert (len(calls), done.new["height"], done.failures["height"]) == (9, 0, 0)
    other = scorer_of(from_function("height", count, version="2"))
    done = score_images(pictures, [other], tmp_path / "third", prompts=tmp_path / "few.txt", reuse=[tmp_path / "first"])
    assert (len(calls), done.new["height"]) == (18, 9)
    with pytest.raises(UserError, match="holds no scores of an earlier run"):
        score_images(pictures, [scorer], tmp_path / "fourth", prompts=tmp_path / "few.txt", reuse=[tmp_path / "none"])


class Heights:
    """Says how high each picture is; refuses one, and takes at most four at once."""

    name, modality, differentiable, batched = "heights", "image", False, True

    def __init__(self, refuse: int = 33) -> None:
        self.sizes: list[int] = []
        self.refuse = refuse

    def score(self, prompts, media, failures=None):
        self.sizes.append(len(media))
        if len(media) > 4:
            raise torch.OutOfMemoryError("too many")
        scores = np.array([picture.height + len(prompt) for prompt, picture in zip(prompts, media, strict=True)])
        for index, picture in enumerate(media):
            if picture.height == self.refuse:
                scores = scores.astype(np.float32)
                scores[index] = np.nan
                report_failure(Failure(index, "no score in the answer 'I cannot tell'"), failures)
        return scores.astype(np.float32)


def test_a_batched_reward_gets_blocks_and_says_why_a_pair_has_no_score(pictures, tmp_path):
    reward = Heights()
    assert isinstance(reward, BatchedReward)
    assert not isinstance(reward, PixelReward)
    done = score_images(pictures, [scorer_of(reward)], tmp_path / "out", batch_size=8)
    assert reward.sizes == [8, 4, 4, 1]  # a block of 8 is one too many, of the second block 1 is left
    rows = [json.loads(line) for line in (tmp_path / "out/scores.jsonl").read_text().splitlines()]
    assert [row["heights"] for row in rows] == [None if number == 3 else 38 + number for number in range(9)]
    assert rows[3]["error"] == "no score in the answer 'I cannot tell'"
    assert done.failures == {"heights": 1}
