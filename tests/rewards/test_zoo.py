"""The zoo's entries that open one file in several ways, and what they are called once they are open."""

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from palate.errors import UserError
from palate.rewards.clip_keys import Heads
from palate.rewards.hps import HEADS
from palate.rewards.registry import open_reward


@pytest.mark.parametrize(("name", "file"), [("hpsv2", "HPS_v2_compressed.pt"), ("hpsv2.1", "HPS_v2.1_compressed.pt")])
def test_each_version_of_hps_asks_for_its_own_file(name, file, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=f"^{tmp_path / file} does not exist"):
        open_reward(name, weights=tmp_path)
    asked = []

    def download(repository: str, name: str) -> str:
        asked.append((repository, name))
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(UserError, match="no network"):
        open_reward(name)
    assert asked == [("xswu/HPSv2", file)]


def test_heads_are_those_of_open_clips_vit_h_14():
    config = open_clip.get_model_config("ViT-H-14")
    vision = config["vision_cfg"]
    assert Heads(text=config["text_cfg"]["heads"], vision=vision["width"] // vision["head_width"]) == HEADS


def test_a_file_that_tells_no_heads_has_vit_h_14s(make_open_clip, tmp_path):
    torch.save(make_open_clip().state_dict(), tmp_path / "HPS_v2.1_compressed.pt")  # 32 and 48 wide: 16 divides both
    config = open_reward("hpsv2.1", weights=tmp_path).tower.model.config  # type: ignore[attr-defined]
    assert (config.text_config.num_attention_heads, config.vision_config.num_attention_heads) == (16, 16)


@pytest.fixture
def assets(gelu_folder, quick_gelu_folder, hps_file, imagereward_folder, tmp_path) -> dict[str, dict]:
    widths, state = (16, 20, 8, 6, 4, 1), {}
    for layer, inputs, outputs in zip((0, 2, 4, 6, 7), widths[:-1], widths[1:], strict=True):
        state |= {f"layers.{layer}.weight": torch.ones(outputs, inputs), f"layers.{layer}.bias": torch.ones(outputs)}
    torch.save(state, tmp_path / "head.pth")
    Image.fromarray(np.zeros((30, 30, 3), dtype=np.uint8)).save(tmp_path / "subject.png")
    clip = {"weights": quick_gelu_folder}
    return {
        "pickscore": {"weights": gelu_folder},
        "hpsv2": {"weights": hps_file, "heads": Heads(4, 2)},
        "hpsv2.1": {"weights": hps_file, "heads": Heads(4, 2)},
        "imagereward": {"weights": imagereward_folder, "tokenizer": imagereward_folder},
        "clipscore": clip,
        "aesthetic": {**clip, "head": tmp_path / "head.pth"},
        "clip_i": {**clip, "references": tmp_path / "subject.png"},
        "lambda_harmonic": {**clip, "references": tmp_path / "subject.png"},
        "shapes_oracle": {},
        "jpeg_size": {},
        "sharpness": {},
    }


def test_a_reward_is_called_as_the_zoo_calls_it(assets):
    assert {name: open_reward(name, **given).name for name, given in assets.items()} == {name: name for name in assets}


def test_tensors_are_prepared_as_pictures_are_and_gradients_reach_them(assets):
    levels = torch.randint(64, 192, (3, 32, 67), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    picture = Image.fromarray(levels.permute(1, 2, 0).numpy())
    rewards = {name: open_reward(name, **given) for name, given in assets.items()}
    found = {name: reward for name, reward in rewards.items() if reward.differentiable}
    assert set(found) == {name for name in assets if name not in ("shapes_oracle", "jpeg_size", "sharpness")}
    for name, reward in found.items():
        images = (levels[None] / 255).requires_grad_()
        pixels = reward.prepare_tensor(images)  # type: ignore[attr-defined]
        wanted = reward.prepare(picture)[None]  # type: ignore[attr-defined]
        torch.testing.assert_close(pixels, wanted, rtol=0, atol=0.04, msg=name)  # two roundings to 1 / 255 / 0.26
        if name != "aesthetic":  # whose head here is of ones
            reward.score_pixels(["a red dog"], pixels).sum().backward()  # type: ignore[attr-defined]
            assert images.grad is not None
            assert images.grad.abs().max() > 1e-6, name
