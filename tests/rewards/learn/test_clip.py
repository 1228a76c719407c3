"""A tiny open_clip model of 4 + 2 heads in training for HPSv2: what is written scores as open_clip itself does."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from palate.errors import UserError
from palate.rewards.hps import HPS
from palate.rewards.learn.clip import HPSV2_FILE, ClipLearner, open_clip_learner
from palate.rewards.learn.recipe import ClipConfig, Heads
from palate.rewards.registry import open_reward

PROMPTS = ["a red cube", "two dogs on a roof", "a cat"]


def pictures() -> list[Image.Image]:
    generator = np.random.default_rng(0)
    sizes = ((40, 60, 3), (28, 28, 3), (90, 31, 3))
    return [Image.fromarray(generator.integers(0, 256, size, dtype=np.uint8)) for size in sizes]


@pytest.fixture
def learner(make_open_clip, tmp_path) -> ClipLearner:
    torch.save(make_open_clip().state_dict(), tmp_path / "start.pt")
    heads = Heads(text=4, vision=2)
    return open_clip_learner(ClipConfig(path=str(tmp_path / "start.pt"), layout="hpsv2", heads=heads))


def opened(file: Path) -> HPS:
    reward = open_reward("hpsv2.1", weights=file)
    assert isinstance(reward, HPS)
    return reward


@torch.no_grad()
def test_what_is_saved_opens_with_its_own_heads(learner, make_open_clip, tmp_path):
    learner.save(tmp_path)
    assert learner.how_to_score(tmp_path) == f"--with hpsv2.1 --weights hpsv2.1={tmp_path / HPSV2_FILE}"
    spaced = replace(learner, tokenizer="x").how_to_score(Path("my run"))
    assert spaced == f"--with hpsv2.1 --weights 'hpsv2.1=my run/{HPSV2_FILE}' --weights 'hpsv2.1.tokenizer=my run'"
    spaced = replace(learner, layout="pickscore").how_to_score(Path("my run"))
    assert spaced == "--with pickscore --weights 'pickscore=my run'"
    reward, model = opened(tmp_path / HPSV2_FILE), make_open_clip()
    pixels = torch.stack([reward.prepare(one) for one in pictures()])
    image = model.encode_image(pixels, normalize=True)
    text = model.encode_text(open_clip.get_tokenizer("ViT-H-14")(PROMPTS), normalize=True)
    scores = torch.from_numpy(reward.score(PROMPTS, pictures()))
    torch.testing.assert_close(scores, (image * text).sum(dim=-1), rtol=0, atol=1e-6)
    raw = learner.network(learner.read(PROMPTS), pixels, torch.arange(3))
    torch.testing.assert_close(raw, scores * reward.tower.scale, rtol=0, atol=1e-4)


def test_the_files_heads_are_the_next_runs_whatever_its_recipe_says(learner, tmp_path):
    learner.save(tmp_path)
    with safe_open(tmp_path / HPSV2_FILE, framework="pt") as file:
        assert file.metadata() == {"heads": "4,2"}
    again = open_clip_learner(ClipConfig(path=str(tmp_path / HPSV2_FILE), layout="hpsv2"))
    config = again.tower.model.config
    assert (config.text_config.num_attention_heads, config.vision_config.num_attention_heads) == (4, 2)


def test_heads_that_are_no_numbers_are_told(learner, tmp_path):
    learner.save(tmp_path)
    save_file(load_file(tmp_path / HPSV2_FILE), tmp_path / "other.safetensors", {"heads": "many"})
    with pytest.raises(UserError, match=r"other\.safetensors: its metadata tell the heads 'many', which are no two"):
        open_reward("hpsv2.1", weights=tmp_path / "other.safetensors")


def test_it_sees_what_the_scorer_sees(learner, tmp_path):
    learner.save(tmp_path)
    reward = opened(tmp_path / HPSV2_FILE)
    for one in pictures():
        assert torch.equal(learner.prepare(one), reward.prepare(one))  # of the wide, the square and the tall
