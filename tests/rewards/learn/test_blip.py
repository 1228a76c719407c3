"""A tiny ImageReward in training: what it trains is what the scorer scores, and what it writes is what opens."""

import shlex

import numpy as np
import pytest
import torch
from PIL import Image

from palate.datasets.group import Group
from palate.datasets.parquet import write_groups
from palate.errors import UserError
from palate.rewards.blip_keys import MLP_LAYERS
from palate.rewards.imagereward import MEAN, STD, open_imagereward
from palate.rewards.learn.blip import open_blip_learner, with_head
from palate.rewards.learn.fit import fit_reward
from palate.rewards.learn.recipe import BlipConfig, RewardRecipe
from palate.rewards.scorer import open_scorer
from palate.rewards.scoring.picture_file import read_picture
from palate.rewards.weights import load_tensors
from palate.training.recipe import check_recipe

PROMPTS = ["a red dog", "the big cat on the roof", "a blue cat"]


def config(folder, **more) -> BlipConfig:
    return BlipConfig(kind="blip", path=str(folder / "ImageReward.pt"), tokenizer=str(folder), **more)


def pictures(count: int) -> list[Image.Image]:
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 256, (40, 36, 3), dtype=np.uint8)) for _ in range(count)]


@torch.no_grad()
def test_it_scores_as_the_scorer_does_before_the_constants(imagereward_folder):
    learner = open_blip_learner(config(imagereward_folder), seed=0)
    learner.network.eval()
    seen = pictures(4)
    pixels = torch.stack([learner.prepare(picture) for picture in seen])
    raw = learner.network(learner.read(PROMPTS), pixels, torch.tensor([0, 1, 1, 2]))
    prompts = [PROMPTS[0], PROMPTS[1], PROMPTS[1], PROMPTS[2]]
    scores = open_imagereward(imagereward_folder, tokenizer=imagereward_folder).score(prompts, seen)
    np.testing.assert_allclose((raw.numpy() - MEAN) / STD, scores, rtol=0, atol=1e-5)
    assert np.ptp(scores) > 0.01


def test_dropout_is_the_texts_and_the_heads(imagereward_folder):
    network = open_blip_learner(config(imagereward_folder, dropout=0.25), seed=0).network
    rates = {m.p for m in network.text.modules() if isinstance(m, torch.nn.Dropout)}
    assert rates == {0.25}
    assert [m.p for m in network.head.layers if isinstance(m, torch.nn.Dropout)] == [0.2, 0.2, 0.1]


@pytest.mark.parametrize(
    ("share", "below"),
    [  # of two blocks a tower, int(2 * share) are frozen, and with any of them the embeddings
        (0.0, ()),
        (0.4, ("embeddings.",)),
        (0.7, ("embeddings.", "encoder.layers.0.", "encoder.layer.0.")),
    ],
)
def test_the_lower_share_of_both_towers_is_frozen(imagereward_folder, share, below):
    network = open_blip_learner(config(imagereward_folder, frozen=share), seed=0).network
    frozen = {name for name, weight in network.named_parameters() if not weight.requires_grad}
    assert frozen == {name for name, _ in network.named_parameters() if any(part in name for part in below)}


def test_blips_own_checkpoint_gets_a_head_as_the_authors_draw_it(imagereward_folder, tmp_path):
    state = load_tensors(imagereward_folder / "ImageReward.pt")
    own = {key.removeprefix("blip."): tensor for key, tensor in state.items() if key.startswith("blip.")}
    own |= {"visual_encoder_m.cls_token": torch.zeros(1), "text_decoder.bert.x": torch.zeros(1), "temp": torch.zeros(1)}
    torch.save({"model": own}, tmp_path / "model_large.pth")
    fresh = with_head(own, seed=3)
    assert {key: tensor for key, tensor in fresh.items() if key.startswith("blip.")}.keys() == {
        key for key in state if key.startswith("blip.")
    }
    weights = [fresh[f"mlp.layers.{layer}.weight"] for layer in MLP_LAYERS]
    assert [tuple(weight.shape) for weight in weights] == [(1024, 64), (128, 1024), (64, 128), (16, 64), (1, 16)]
    assert weights[0].std().item() == pytest.approx(1 / 65, rel=0.02)
    assert weights[1].std().item() == pytest.approx(1 / 65, rel=0.02)
    assert not any(fresh[f"mlp.layers.{layer}.bias"].any() for layer in MLP_LAYERS)
    learner = open_blip_learner(
        BlipConfig(kind="blip", path=str(tmp_path / "model_large.pth"), tokenizer=str(imagereward_folder)), seed=3
    )
    torch.testing.assert_close(learner.network.head.layers[0].weight.data, weights[0])
    torch.save({"model": {"text_encoder.x": torch.zeros(1)}}, tmp_path / "broken.pth")
    with pytest.raises(UserError, match=r"broken.pth has not the keys of ImageReward.pt"):
        open_blip_learner(BlipConfig(kind="blip", path=str(tmp_path / "broken.pth")), seed=0)


@torch.no_grad()
def test_another_text_towers_config_goes_with_the_weights(imagereward_folder, tmp_path):
    start = tmp_path / "start.json"
    start.write_text('{"num_attention_heads": 4, "hidden_act": "relu", "layer_norm_eps": 1e-05}')
    learner = open_blip_learner(config(imagereward_folder, config=str(start)), seed=0)
    start.unlink()  # the result needs nothing of the start
    final = tmp_path / "my run" / "final"
    final.mkdir(parents=True)
    learner.save(final)
    told = shlex.split(learner.how_to_score(final))
    assert told == ["--with", "imagereward", "--weights", f"imagereward={final}"]
    assert not (final / "vocab.txt").exists()
    seen = pictures(3)
    pixels = torch.stack([learner.prepare(picture) for picture in seen])
    raw = learner.network.eval()(learner.read(PROMPTS), pixels, torch.arange(3))
    wanted = (raw.numpy() - MEAN) / STD
    file = final / "imagereward.safetensors"
    opened = [open_scorer("imagereward", weights=str(weights)) for weights in (final, file)]
    for scorer in opened:  # the folder, or the file with the others beside it
        np.testing.assert_allclose(scorer.reward.score(PROMPTS, seen), wanted, rtol=0, atol=1e-5)
        built = {"num_attention_heads": 4, "hidden_act": "relu", "layer_norm_eps": 1e-05}
        assert scorer.settings["config"] == built
        assert scorer.settings["tokenizer"].startswith("sha256 ")
    (final / "med_config.json").write_text('{"num_attention_heads": 4}')
    assert np.abs(open_imagereward(file).score(PROMPTS, seen) - wanted).max() > 1e-3
    assert open_scorer("imagereward", weights=str(file)).fingerprint != opened[1].fingerprint


def test_a_recipe_trains_it_and_imagereward_opens_the_result(imagereward_folder, make_groups, tmp_path):
    groups = [group for group in make_groups(40) if not group.is_tie]
    words = {"red": "a red cat", "green": "a dog", "blue": "a blue cat"}
    groups = [Group(group.key, words[group.prompt.split()[1]], group.candidates, group.labels) for group in groups]
    write_groups(groups, tmp_path / "groups")
    values = {
        "model": {"kind": "blip", "path": str(imagereward_folder / "ImageReward.pt"), "frozen": 0.0, "dropout": 0.0},
        "data": {"path": str(tmp_path / "groups")},
        "method": {"name": "reward_model", "loss": "imagereward"},
        "training": {"steps": 60, "batch_size": 8, "micro_batch": 8, "learning_rate": 1e-3, "workers": 0},
        "output": {"folder": str(tmp_path / "run")},
    }
    values["model"]["tokenizer"] = str(imagereward_folder)
    said: list[str] = []
    summary = fit_reward(check_recipe(values, ["training.trackers=[]"], RewardRecipe, "test"), said.append)
    file = summary.final / "imagereward.safetensors"
    assert said[-1].endswith(f" --with imagereward --weights imagereward={summary.final}")
    reward = open_imagereward(file)
    fresh = [group for group in make_groups(24, fresh=10_000) if not group.is_tie]
    prompts = [words[group.prompt.split()[1]] for group in fresh for _ in range(3)]
    seen = [read_picture(data) for group in fresh for data in group.candidates]
    scores = reward.score(prompts, seen).reshape(-1, 3)
    assert (scores.argmax(axis=1) == np.argmax([group.labels for group in fresh], axis=1)).mean() >= 0.9
