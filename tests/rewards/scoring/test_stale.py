"""What was computed in another way is never given as today's: another version, other weights, another function."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from palate.errors import UserError
from palate.rewards import scorer as scorer_module
from palate.rewards.function import from_function
from palate.rewards.pickscore import open_pickscore
from palate.rewards.scorer import open_scorer, scorer_of
from palate.rewards.scoring import batch
from palate.rewards.scoring.batch import score_images


@pytest.fixture
def folder(tmp_path):
    """Three pictures with a prompt each."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(3):
        Image.new("RGB", (40, 32), (50 * number, 9, 9)).save(pictures / f"{number}.png")
    rows = [{"image": f"{number}.png", "prompt": "a red dog"} for number in range(3)]
    (pictures / "images.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return pictures


def test_scores_of_another_version_of_palate_are_made_anew(folder, tmp_path, gelu_folder, monkeypatch):
    out = tmp_path / "out"
    assert score_images(folder, [open_scorer("pickscore", weights=gelu_folder)], out).new == {"pickscore": 3}
    assert score_images(folder, [open_scorer("pickscore", weights=gelu_folder)], out).new == {"pickscore": 0}
    monkeypatch.setattr(scorer_module, "__version__", "99.0")
    assert score_images(folder, [open_scorer("pickscore", weights=gelu_folder)], out).new == {"pickscore": 3}
    assert json.loads((out / "scores.meta.json").read_text())["scorers"]["pickscore"]["palate"] == "99.0"


def test_the_provenance_tells_what_is_seen_and_by_which_libraries(folder, tmp_path, gelu_folder, monkeypatch):
    scorers, out = [open_scorer("pickscore", weights=gelu_folder)], tmp_path / "out"
    score_images(folder, scorers, out)
    meta = json.loads((out / "scores.meta.json").read_text())
    assert "middle square" in meta["scorers"]["pickscore"]["input"]
    assert "other_versions" not in meta
    old = batch.versions()
    monkeypatch.setattr(batch, "versions", lambda: {**old, "torch": "99.0"})
    Image.new("RGB", (40, 32)).save(folder / "3.png")
    with (folder / "images.jsonl").open("a") as lines:
        lines.write(json.dumps({"image": "3.png", "prompt": "a cat"}) + "\n")
    assert score_images(folder, scorers, out, batch_size=1).new == {"pickscore": 1}
    meta = json.loads((out / "scores.meta.json").read_text())
    assert (meta["versions"]["torch"], meta["other_versions"]) == ("99.0", [old])
    monkeypatch.setattr(batch, "versions", lambda: {**old, "torch": "100.0"})
    score_images(folder, scorers, out, batch_size=1)
    meta = json.loads((out / "scores.meta.json").read_text())
    assert (meta["versions"]["torch"], meta["other_versions"]) == ("100.0", [old, {**old, "torch": "99.0"}])


def test_a_reward_opened_by_hand_is_the_same_only_where_its_owner_says_so(folder, tmp_path, gelu_folder):
    reward, out = open_pickscore(gelu_folder), tmp_path / "out"
    for _ in range(2):  # it may have been trained in between
        assert score_images(folder, [scorer_of(reward)], out).new == {"pickscore": 3}
    assert score_images(folder, [scorer_of(reward, weights="a")], out).new == {"pickscore": 3}
    assert score_images(folder, [scorer_of(reward, weights="a")], out).new == {"pickscore": 0}
    assert score_images(folder, [scorer_of(reward, weights="b")], out).new == {"pickscore": 3}


def test_a_function_is_the_same_only_where_its_version_is(folder, tmp_path):
    def side(prompt, picture):
        return picture.width

    out = tmp_path / "out"
    for version, new in (("", 3), ("", 3), ("1", 3), ("1", 0), ("2", 3)):
        assert score_images(folder, [scorer_of(from_function("side", side, version))], out).new == {"side": new}


def test_a_very_thin_picture_costs_its_own_score_and_nothing_else(folder, tmp_path, gelu_folder):
    Image.new("RGB", (1, 300_000)).save(folder / "1.png")
    done = score_images(folder, [open_scorer("pickscore", weights=gelu_folder)], tmp_path / "out")
    assert done.failures == {"pickscore": 1}
    assert done.reasons == (("1.png", "1 x 300000 pixels: one side is more than 200 times the other"),)


def test_weights_behind_a_linked_folder_count(folder, tmp_path, gelu_folder):
    """transformers follows the link; so must what tells old scores from new."""
    shutil.copytree(gelu_folder, tmp_path / "far")
    (tmp_path / "model").mkdir()
    for file in (tmp_path / "far").iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, tmp_path / "model")
    (tmp_path / "model" / "shards").symlink_to(tmp_path / "far", target_is_directory=True)
    (tmp_path / "far" / "back").symlink_to(tmp_path / "model", target_is_directory=True)  # a way round must end
    before = scorer_module.folder_digest(tmp_path / "model")
    assert scorer_module.folder_digest(tmp_path / "model") == before
    with (tmp_path / "far" / "model.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\1\2\3\4")
    assert scorer_module.folder_digest(tmp_path / "model") != before
    (tmp_path / "model" / ".inner").mkdir()
    changed = scorer_module.folder_digest(tmp_path / "model")
    (tmp_path / "model" / ".inner" / "part.safetensors").write_bytes(b"x")
    assert scorer_module.folder_digest(tmp_path / "model") != changed


def test_settings_are_texts_and_numbers():
    for value in (Path("w.pt"), torch.zeros(3), {"a": Path("w.pt")}):
        with pytest.raises(
            UserError, match=r"the setting weights of side is a \w+; give texts, numbers, or lists of them"
        ):
            scorer_of(from_function("side", len), weights=value)  # type: ignore[arg-type]
    assert scorer_of(from_function("side", len), palate="mine", n=[1, "a"]).settings["palate"] != "mine"  # type: ignore[arg-type]


def test_a_scorer_without_a_name_is_not_shared_among_processes(folder, tmp_path):
    scorer = scorer_of(from_function("side", lambda prompt, picture: picture.width))
    with pytest.raises(UserError, match="side is another scorer in each process"):
        score_images(folder, [scorer], tmp_path / "out", shard=(0, 2))
    named = scorer_of(from_function("side", lambda prompt, picture: picture.width, "1"))
    for number in range(2):
        done = score_images(folder, [named], tmp_path / "out", shard=(number, 2), batch_size=2)
    assert done.tables is not None
