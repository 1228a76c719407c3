from __future__ import annotations

import json

import pytest

from palate.datasets.hpd import read_hpd
from palate.datasets.skips import SkipLog
from palate.errors import UserError


@pytest.fixture
def root(tmp_path, picture):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        for number in range(4):
            (tmp_path / split / f"0{number}.jpg").write_bytes(picture(number, format="JPEG"))
    train = [
        {"prompt": "a cat", "file_path": ["00.jpg", "01.jpg"], "human_preference": [0, 1], "user_hash": "ab"},
        {"prompt": "gone", "file_path": ["00.jpg", "09.jpg"], "human_preference": [1, 0]},
        {"prompt": "a dog", "file_path": ["02.jpg", "03.jpg"], "human_preference": [1, 0]},
    ]
    test = [{"prompt": "a bee", "image_path": ["00.jpg", "01.jpg", "02.jpg"], "rank": [2, 1, 2], "raw_annotations": []}]
    (tmp_path / "train.json").write_text(json.dumps(train))
    (tmp_path / "test.json").write_text(json.dumps(test))
    return tmp_path


def test_training_pairs_keep_their_votes(root, picture):
    log = SkipLog()
    groups = list(read_hpd(root, split="train", log=log))
    assert [(group.key, group.prompt, group.labels) for group in groups] == [
        ("train:0", "a cat", (0.0, 1.0)),
        ("train:2", "a dog", (1.0, 0.0)),
    ]
    assert groups[0].rater == "ab"
    assert groups[1].candidates == (picture(2, format="JPEG"), picture(3, format="JPEG"))
    assert log.counts == {"missing file": 1}
    assert log.examples[0].key == "train:1"


def test_the_lowest_rank_of_the_test_split_is_the_best(root, picture):
    (group,) = read_hpd(root / "test.json")
    assert group.labels == (-2.0, -1.0, -2.0)
    assert group.sorted_by_label().candidates[0] == picture(1, format="JPEG")


def test_version_3_prefers_path1(tmp_path, picture):
    (tmp_path / "images").mkdir()
    for number in range(2):
        (tmp_path / "images" / f"{number}.jpg").write_bytes(picture(number))
    row = {"prompt": "p", "path1": "images/1.jpg", "path2": "images/0.jpg", "model1": "flux", "model2": 7}
    (tmp_path / "all.json").write_text(json.dumps([row | {"choice_dist": [12, 7], "confidence": 0.9}]))
    (group,) = read_hpd(tmp_path)
    assert (group.candidates, group.labels, group.model) == ((picture(1), picture(0)), (1, 0), ("flux", "7"))


def test_mistakes_are_one_clear_error(root, tmp_path_factory):
    with pytest.raises(UserError, match=r"holds test\.json, train\.json: choose one"):
        list(read_hpd(root))
    with pytest.raises(UserError, match="holds no JSON file"):
        list(read_hpd(tmp_path_factory.mktemp("empty")))
    (root / "train.json").write_text('[{"text": "x"}]')
    with pytest.raises(UserError, match="item 0: not an HPD item; it has text"):
        list(read_hpd(root / "train.json"))
