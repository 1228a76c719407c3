"""Where ImageReward's vocabulary comes from, and what is said where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from palate.errors import UserError
from palate.rewards.imagereward import open_imagereward
from palate.rewards.scorer import open_scorer


@pytest.fixture
def offline(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "none"))


def place(imagereward_folder: Path, folder: Path, words: list[str]) -> Path:
    """The same weights in another folder, beside a vocabulary."""
    folder.mkdir()
    (folder / "ImageReward.pt").symlink_to(imagereward_folder / "ImageReward.pt")
    if words:
        (folder / "vocab.txt").write_text("\n".join(words))
    return folder / "ImageReward.pt"


def test_a_vocabulary_that_is_not_there_is_told(imagereward_folder, tmp_path, offline):
    """transformers answers an empty folder, and offline a hub id, with a tokenizer to which every word is unknown."""
    file = place(imagereward_folder, tmp_path / "bare", [])
    for source in (None, tmp_path):
        with pytest.raises(UserError) as told:
            open_imagereward(file, tokenizer=source)
        assert str(told.value) == (
            f"no vocabulary for imagereward is found at {source or 'bert-base-uncased'}, "
            "on this machine or on the hub; give a folder with BERT's vocab.txt as `tokenizer`"
        )


def test_a_vocabulary_that_is_no_text_is_one_line(imagereward_folder, tmp_path):
    file = place(imagereward_folder, tmp_path / "damaged", ["[PAD]"])
    file.with_name("vocab.txt").write_bytes(b"[PAD]\n\xff\xfe\n")
    with pytest.raises(UserError) as told:
        open_imagereward(file)
    assert str(told.value).startswith(f"the tokenizer {file.parent} cannot be loaded (")
    assert str(told.value).endswith("); give bert-base-uncased or a folder with its vocab.txt")
    assert "\n" not in str(told.value)


def test_a_vocabulary_beside_the_weights_is_theirs_and_tells_scores_apart(imagereward_folder, tmp_path, offline):
    words = (imagereward_folder / "vocab.txt").read_text().split()
    others = [*words[:5], *reversed(words[5:])]
    one, two = (place(imagereward_folder, tmp_path / name, listed) for name, listed in (("1", words), ("2", others)))
    for file, listed in ((one, words), (two, others)):
        ids, _ = open_imagereward(file).prompts.read(["red roof"])
        assert ids.tolist() == [[listed.index(word) for word in ("[CLS]", "red", "roof", "[SEP]")]]
    assert open_scorer("imagereward", weights=one).fingerprint != open_scorer("imagereward", weights=two).fingerprint
    given = open_imagereward(two, tokenizer=one.parent)
    assert given.prompts.read(["red"])[0][0, 1] == words.index("red")
    assert given.settings == {}


def test_a_tilde_is_the_home_folder(imagereward_folder, monkeypatch):
    monkeypatch.setenv("HOME", str(imagereward_folder.parent))
    open_imagereward(imagereward_folder, tokenizer=f"~/{imagereward_folder.name}")
