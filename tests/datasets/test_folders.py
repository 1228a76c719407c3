from __future__ import annotations

import json
import unicodedata

import pytest

from palate.datasets.folders import read_folders
from palate.datasets.skips import SkipLog
from palate.errors import UserError


@pytest.fixture
def root(tmp_path, picture):
    for side in "wl":
        (tmp_path / side / "deep er").mkdir(parents=True)
    names = ["1.png", "a cat.jpg", "deep er/кот.png"]
    for number, name in enumerate(names):
        (tmp_path / "w" / name).write_bytes(picture(number))
        (tmp_path / "l" / name).write_bytes(picture(10 + number))
        (tmp_path / "w" / name).with_suffix(".txt").write_text(f"prompt of {name}\n", encoding="utf-8")
    return tmp_path


def test_equal_names_are_pairs_winner_first(root, picture):
    groups = list(read_folders(root))
    assert [group.key for group in groups] == ["1", "a cat", "deep er/кот"]
    assert all(group.labels == (1.0, 0.0) for group in groups)
    assert groups[2].candidates == (picture(2), picture(12))
    assert groups[2].prompt == "prompt of deep er/кот.png"


def test_other_suffix_and_other_unicode_form_still_pair(root, picture):
    (root / "w" / (unicodedata.normalize("NFD", "é") + ".png")).write_bytes(picture(3))
    (root / "w" / (unicodedata.normalize("NFD", "é") + ".txt")).write_text("accent")
    (root / "l" / (unicodedata.normalize("NFC", "é") + ".webp")).write_bytes(picture(13, format="WEBP"))
    group = next(group for group in read_folders(root) if group.prompt == "accent")
    assert group.key == unicodedata.normalize("NFC", "é")


def test_a_lone_picture_or_one_without_prompt_shifts_nothing(root, picture):
    (root / "l" / "1.png").unlink()
    (root / "l" / "0 only lost.png").write_bytes(picture(99))
    (root / "w" / "a cat.txt").unlink()
    log = SkipLog()
    (group,) = read_folders(root, log=log)
    assert group.candidates == (picture(2), picture(12))
    assert log.counts == {"no partner": 2, "no prompt": 1}
    assert "1: no partner (only in w/)" in map(str, log.examples)


def test_captions_in_one_file_and_other_folder_names(root):
    for text in root.rglob("*.txt"):
        text.unlink()
    (root / "w").rename(root / "chosen")
    (root / "l").rename(root / "rejected")
    rows = [{"file_name": "1.png", "prompt": "one"}, {"file_name": "chosen/a cat.jpg", "text": "two"}]
    (root / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    log = SkipLog()
    assert [group.prompt for group in read_folders(root, log=log)] == ["one", "two"]
    assert log.counts == {"no prompt": 1}


def test_mistakes_are_one_clear_error(root, picture, tmp_path_factory):
    with pytest.raises(UserError, match="name them w/l or winners/losers"):
        list(read_folders(tmp_path_factory.mktemp("empty")))
    (root / "w" / "1.jpg").write_bytes(picture(5))
    with pytest.raises(UserError, match="differ only in their suffix"):
        list(read_folders(root))
    (root / "w" / "1.jpg").unlink()
    for text in root.rglob("*.txt"):
        text.unlink()
    with pytest.raises(UserError, match=r"none of the pairs .* has a prompt: put NAME\.txt"):
        list(read_folders(root))


def test_two_empty_folders_are_an_empty_set(tmp_path):
    (tmp_path / "w").mkdir()
    (tmp_path / "l").mkdir()
    assert list(read_folders(tmp_path)) == []


def test_pictures_are_read_one_pair_at_a_time(root):
    groups = read_folders(root)
    next(groups)
    (root / "l" / "a cat.jpg").unlink()
    assert [group.key for group in groups] == ["deep er/кот"]
