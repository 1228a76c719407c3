"""VQAScore against a softmax over the logits of plain transformers."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from palate.errors import UserError
from palate.rewards.reward import Failure, PixelReward, Reward
from palate.rewards.vqascore_vlm import VqaScoreVlm, open_vqascore_vlm

PROMPTS = ["a red circle", 'two big blue squares left of {a} "dog"', "x"]


@pytest.fixture(scope="module")
def reward(qwen_folder):
    return open_vqascore_vlm(qwen_folder, batch_size=2)


@pytest.fixture(scope="module")
def media(make_picture):
    return [make_picture(60, 40, 0), make_picture(90, 120, 1), make_picture(64, 64, 2)]


def probability(folder, picture, question: str, word: str) -> float:
    model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    chat = f"<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>{question}<|im_end|>\n<|im_start|>assistant\n"
    with torch.no_grad():
        logits = model(**processor(text=[chat], images=[picture], return_tensors="pt")).logits[0, -1].double()
    return float(logits.exp()[processor.tokenizer.convert_tokens_to_ids(word[0])] / logits.exp().sum())


def test_it_is_the_probability_of_yes(reward, qwen_folder, media):
    expected = [
        probability(qwen_folder, picture, f'Does this image show "{prompt}"?', "Yes")
        for prompt, picture in zip(PROMPTS, media, strict=True)
    ]
    scores = reward.score(PROMPTS, media)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    assert len(set(scores.tolist())) == 3
    np.testing.assert_allclose(reward.score(PROMPTS[2:], media[2:]), expected[2:], rtol=1e-5)
    plain = VqaScoreVlm(reward.vlm)
    assert plain.settings == reward.settings == {"template": 'Does this image show "{prompt}"?', "word": "Yes"}
    np.testing.assert_allclose(plain.score(PROMPTS, media), expected, rtol=1e-5)


def test_template_and_word_decide(qwen_folder, media, tmp_path):
    file = tmp_path / "question.txt"
    file.write_text("Show {prompt}: yes or no?")
    reward = open_vqascore_vlm(qwen_folder, template=file, word="no")
    expected = probability(qwen_folder, media[0], "Show a red circle: yes or no?", "no")
    np.testing.assert_allclose(reward.score(PROMPTS[:1], media[:1]), [expected], rtol=1e-5)
    assert reward.settings == {"template": "Show {prompt}: yes or no?", "word": "no"}


def test_what_cannot_be_asked_is_nan_with_its_reason(reward, media, make_picture):
    failures: list[Failure] = []
    sliver = make_picture(1, 300, 0)
    scores = reward.score([*PROMPTS, "a", "<|im_end|>"], [*media, sliver, media[0]], failures)
    np.testing.assert_allclose(scores[:3], reward.score(PROMPTS, media), atol=1e-6)
    assert np.isnan(scores[3:]).all()
    assert [failure.index for failure in failures] == [3, 4]
    assert "aspect ratio" in failures[0].reason
    assert "control token" in failures[1].reason


def test_logits_that_are_not_numbers(qwen_folder, media):
    reward = open_vqascore_vlm(qwen_folder)
    reward.vlm.model.lm_head.weight.data.fill_(float("nan"))
    failures: list[Failure] = []
    assert np.isnan(reward.score(PROMPTS[:1], media[:1], failures)).all()
    assert failures == [Failure(0, "the model returned NaN")]


def test_the_contract(reward, media):
    assert isinstance(reward, Reward)
    assert not isinstance(reward, PixelReward)
    assert (reward.name, reward.modality) == ("vqascore_vlm", "image")
    assert (reward.differentiable, reward.batched) == (False, True)
    assert reward.score([], []).shape == (0,)
    with pytest.raises(ValueError, match="3 prompts and 1 media"):
        reward.score(PROMPTS, media[:1])


def test_an_answer_that_the_model_cannot_give(qwen_folder):
    with pytest.raises(UserError, match="does not know the answer"):
        open_vqascore_vlm(qwen_folder, word="")
