"""Judges: what they are asked, what they refuse, and how they are opened."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel

from palate.datasets.shapes.prompts import draw_prompts, draw_scene
from palate.datasets.shapes.world import render
from palate.errors import PalateError, UserError
from palate.rewards.clip_keys import Heads
from palate.rewards.clip_tower import ClipTower
from palate.rewards.step_aware import StepAware, open_step_aware, save_step_aware
from palate.rewards.step_aware_tower import StepAwareClip, TimeModulation
from palate.t2i.methods.online import JudgeSettings
from palate.t2i.online.judging import PictureJudge, open_judge, to_pictures


def pixels_of(pictures) -> torch.Tensor:
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2) / 255


def test_the_oracle_scores_pixels_as_it_scores_pictures():
    prompts = draw_prompts(6, 0, held_out=False)
    pictures = [render(draw_scene(prompt, np.random.default_rng(0))) for prompt in prompts]
    judge = open_judge(JudgeSettings(name="shapes_oracle"), "sdxl", "cpu")
    pixels = pixels_of(pictures)
    assert all(np.array_equal(a, b) for a, b in zip(to_pictures(pixels), pictures, strict=True))
    texts = [prompt.text for prompt in prompts]
    assert judge.score(texts, pixels, torch.zeros(6)).tolist() == [1.0] * 6
    shown = pixels[[1, 0, 3, 2, 5, 4]]
    assert judge.score(texts, shown, torch.zeros(6)).mean() < 1


def test_broken_and_refused_pictures_have_no_score_and_the_others_have_theirs():
    prompts = [prompt.text for prompt in draw_prompts(2, 0, held_out=False)]
    good = pixels_of([render(draw_scene(prompt, np.random.default_rng(0))) for prompt in draw_prompts(2, 0, False)])
    black, holes = torch.zeros_like(good[0]), good[0].clone()
    holes[0, 3, 3] = torch.nan
    judge = open_judge(JudgeSettings(name="shapes_oracle"), "sd3", "cpu")
    scores = judge.score(
        [prompts[0], "a", "b", prompts[1]], torch.stack([good[0], black, holes, good[1]]), torch.zeros(4)
    )
    assert scores[[0, 3]].tolist() == [1.0, 1.0]
    assert scores[[1, 2]].isnan().all()
    assert "black" in judge.reason
    scores = judge.score([prompts[0], "a cat"], good, torch.zeros(2))
    assert scores[0] == 1.0
    assert scores[1].isnan()
    assert "'a cat' is not a prompt of the shapes world" in judge.reason


def test_a_scorer_that_breaks_is_one_line(monkeypatch):
    judge = open_judge(JudgeSettings(name="shapes_oracle"), "sdxl", "cpu")
    monkeypatch.setattr("palate.t2i.online.judging.to_pictures", lambda pixels: {}["x"])
    with pytest.raises(PalateError, match=r"the scorer shapes_oracle failed \(KeyError: 'x'\)"):
        judge.score(["a"], torch.rand(1, 3, 8, 8), torch.zeros(1))


def test_an_infinite_score_is_none():
    judge = PictureJudge(
        "wild", "", lambda prompts, pixels, times, failures: torch.tensor([torch.inf, 2.0, -torch.inf])
    )
    scores = judge.score(["a"] * 3, torch.rand(3, 3, 4, 4), torch.zeros(3))
    assert scores.isnan().tolist() == [True, False, True]
    assert scores[1] == 2


@pytest.fixture
def step_aware_folder(tmp_path):
    """A tiny step-aware model that hears the time, with open_clip's tokenizer."""
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    tower |= {"hidden_act": "gelu", "initializer_range": 0.2}
    config = CLIPConfig(text_config=tower, vision_config=tower | {"image_size": 28, "patch_size": 14}, projection_dim=8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = CLIPModel(config).state_dict()
        clip = ClipTower.from_state(state, Heads(text=2, vision=2), "gelu")
        time = TimeModulation.fresh(16, 1, 0)
        for parameter in time.parameters():
            parameter.data += 0.3 * torch.randn(parameter.shape)
    folder = tmp_path / "judge"
    folder.mkdir()
    save_step_aware(StepAware(clip, StepAwareClip(clip.model, time, clip.prompts.end)), folder)
    return folder


def test_a_step_aware_model_is_asked_with_the_time(step_aware_folder):
    judge = open_judge(JudgeSettings(weights=str(step_aware_folder)), "sdxl", "cpu")
    pixels, times = torch.rand(40, 3, 32, 32), torch.arange(40) * 25.0
    prompts = ["a photo of a red circle", "a photo of a triangle"] * 20
    model = open_step_aware(step_aware_folder)
    expected = model.score_at(prompts, model.prepare_tensor(pixels), times)
    torch.testing.assert_close(judge.score(prompts, pixels, times), expected.detach(), rtol=1e-4, atol=1e-4)
    assert (judge.score(prompts, pixels, torch.zeros(40)) - expected).abs().max() > 0.01


@pytest.mark.parametrize(("family", "published"), [("sd1", "sd15"), ("sdxl", "sdxl")])
def test_a_family_is_judged_by_its_own_published_model(family, published, step_aware_folder, monkeypatch):
    asked = []

    def opened(path, *rest):
        asked.append(path)
        return open_step_aware(step_aware_folder)

    monkeypatch.setattr("palate.t2i.online.judging.open_step_aware", opened)
    open_judge(JudgeSettings(), family, "cpu")
    assert asked == [published]


def test_pictures_are_cut_at_black_and_white_for_scorers_and_not_for_a_step_aware_model(step_aware_folder):
    pixels = torch.tensor([-0.3, 1.4]).repeat(1, 3, 32, 16)
    assert np.unique(np.asarray(to_pictures(pixels)[0])).tolist() == [0, 255]
    judge = open_judge(JudgeSettings(weights=str(step_aware_folder)), "sdxl", "cpu")
    scores = [judge.score(["a"], given, torch.zeros(1)).item() for given in (pixels, pixels.clamp(0, 1))]
    assert scores[0] != pytest.approx(scores[1], abs=1e-4)  # where it resizes, which comes before it clamps


def test_other_weights_are_another_judge(step_aware_folder):
    settings = JudgeSettings(weights=str(step_aware_folder))
    before = open_judge(settings, "sdxl", "cpu").fingerprint
    file = step_aware_folder / "step_aware.safetensors"
    with safe_open(file, "pt") as opened:
        notes = opened.metadata()
    weights = load_file(file)
    name = next(name for name in weights if weights[name].is_floating_point())
    weights[name] = weights[name] + 1e-3
    save_file(weights, file, notes)
    assert open_judge(settings, "sdxl", "cpu").fingerprint != before


def test_what_cannot_be_opened_is_told():
    with pytest.raises(UserError, match="no step-aware preference model is published for sd3"):
        open_judge(JudgeSettings(), "sd3", "cpu")
    with pytest.raises(UserError, match="there is no scorer 'pick-score2'; did you mean pickscore"):
        open_judge(JudgeSettings(name="pick-score2"), "sdxl", "cpu")
    with pytest.raises(UserError, match=r"method\.judge\.assets: step_aware takes weights and tokenizer"):
        open_judge(JudgeSettings(weights="x", assets={"processor": "y"}), "sdxl", "cpu")
