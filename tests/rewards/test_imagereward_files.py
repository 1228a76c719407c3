"""Where ImageReward's parts are taken from; its numbers are in test_imagereward."""

import shutil

import numpy as np
import pytest
from PIL import Image
from transformers import BertTokenizer

from palate.errors import UserError
from palate.rewards.imagereward import open_imagereward
from palate.rewards.weights import load_tensors, save_tensors


def test_a_config_that_is_nowhere_is_no_fault_of_the_weights(imagereward_folder):
    for config in ("~nosuchuser/med_config.json", "nowhere.json"):
        with pytest.raises(UserError, match=f"^{config} cannot be read as JSON .*; give med_config.json") as told:
            open_imagereward(imagereward_folder, config=config)
        assert "ImageReward.pt" not in str(told.value)


def test_either_file_of_a_tokenizer_beside_the_weights_is_taken(imagereward_folder, tmp_path):
    picture = [Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))]
    wanted = open_imagereward(imagereward_folder, tokenizer=imagereward_folder).score(["a red dog"], picture)
    assert (imagereward_folder / "vocab.txt").is_file()
    assert open_imagereward(imagereward_folder).score(["a red dog"], picture) == wanted
    shutil.copy(imagereward_folder / "ImageReward.pt", tmp_path)
    BertTokenizer.from_pretrained(str(imagereward_folder)).save_pretrained(tmp_path)
    assert not (tmp_path / "vocab.txt").exists()
    found = open_imagereward(tmp_path)
    assert found.score(["a red dog"], picture) == wanted
    assert found.settings.keys() == {"tokenizer"}


def test_in_a_folder_with_both_the_official_file_counts(imagereward_folder, tmp_path):
    folder = shutil.copytree(imagereward_folder, tmp_path / "both")
    state = load_tensors(folder / "ImageReward.pt")
    save_tensors({**state, "mlp.layers.7.bias": state["mlp.layers.7.bias"] + 1}, folder / "imagereward.safetensors")
    official, trained = (open_imagereward(folder / name).bias for name in ("ImageReward.pt", "imagereward.safetensors"))
    assert open_imagereward(folder).bias == official != trained
    (folder / "ImageReward.pt").unlink()
    assert open_imagereward(folder).bias == trained
    (folder / "imagereward.safetensors").unlink()
    with pytest.raises(UserError, match=r"both/ImageReward.pt does not exist; give the path of ImageReward.pt"):
        open_imagereward(folder)
