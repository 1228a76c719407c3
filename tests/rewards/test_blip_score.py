"""BLIP's contrast and match against transformers' own forward pass of the same tiny checkpoint, one row at a time."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import BlipConfig, BlipForImageTextRetrieval, BlipImageProcessor, BlipTextConfig, BlipVisionConfig

from palate.errors import UserError
from palate.rewards.blip_score import open_blip_itc, open_blip_itm
from palate.rewards.reward import Failure, PixelReward

PROMPTS = ["a red circle", "two big blue square on the left of three small red circle", "blue", "the the the", "blue"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(" ".join(PROMPTS).split())]
OPENERS = {"blip_itc": open_blip_itc, "blip_itm": open_blip_itm}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blip")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "initializer_range": 0.2}
    vision = BlipVisionConfig(**sizes, intermediate_size=48, image_size=32, patch_size=8)
    text = BlipTextConfig(**sizes, intermediate_size=48, vocab_size=len(WORDS) + 2, max_position_embeddings=40)
    config = BlipConfig(text_config=text, vision_config=vision, image_text_hidden_size=16, initializer_range=0.2)
    torch.manual_seed(0)
    BlipForImageTextRetrieval(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    return folder


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def transformers_scores(folder, name: str, pixels: Tensor) -> Tensor:
    model = BlipForImageTextRetrieval.from_pretrained(folder).eval()
    scores = []
    for prompt, picture in zip(PROMPTS, pixels, strict=True):
        ids = torch.tensor([[WORDS.index(word) for word in ("[CLS]", *prompt.split(), "[SEP]")]])
        out = model(input_ids=ids, pixel_values=picture[None], use_itm_head=name == "blip_itm").itm_score
        scores.append(out.softmax(-1)[0, 1] if name == "blip_itm" else out[0, 0])
    return torch.stack(scores)


@pytest.mark.parametrize("name", OPENERS)
def test_scores_and_gradients_are_those_of_transformers(folder, pixels, name):
    reward = OPENERS[name](folder)
    assert isinstance(reward, PixelReward)
    assert (reward.name, reward.modality, reward.differentiable, reward.size) == (name, "image", True, 32)
    ours, theirs = (pixels.clone().requires_grad_() for _ in range(2))
    scores, expected = reward.score_pixels(PROMPTS, ours), transformers_scores(folder, name, theirs)
    assert (scores.shape, scores.dtype) == ((5,), torch.float32)
    assert expected.std() > 0.01
    torch.testing.assert_close(scores, expected, atol=1e-6, rtol=0)
    scores.sum().backward()
    expected.sum().backward()
    assert theirs.grad.flatten(1).norm(dim=1).min() > 1e-4
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", OPENERS)
def test_a_score_does_not_depend_on_the_batch(folder, pixels, name):
    reward = OPENERS[name](folder)
    alone = torch.cat([reward.score_pixels([PROMPTS[i]], pixels[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(reward.score_pixels(PROMPTS, pixels), alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", OPENERS)
def test_prompts_are_cut_at_35_tokens(folder, pixels, name):
    reward = OPENERS[name](folder)
    words = [WORDS[5 + i % 13] for i in range(38)]
    long, exactly, less = (reward.score_pixels([" ".join(words[:n])], pixels[:1]).item() for n in (38, 33, 32))
    assert long == exactly != less
    assert reward.prompts.cut == 1


def test_the_contrast_is_a_cosine_and_the_match_a_probability(folder, pixels):
    cosines = open_blip_itc(folder).score_pixels(["blue"] * 5, pixels)
    odds = open_blip_itm(folder).score_pixels(["blue"] * 5, pixels)
    assert -1 <= cosines.min() <= cosines.max() <= 1
    assert 0 <= odds.min() <= odds.max() <= 1


def test_pictures_are_squeezed_as_transformers_does_it(folder):
    values = np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)
    picture = Image.fromarray(values)
    expected = BlipImageProcessor(size={"height": 32, "width": 32})(picture, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(open_blip_itc(folder).prepare(picture), expected, atol=1e-6, rtol=0)


def test_tensors_are_squeezed_as_pictures_are_and_gradients_reach_them(folder):
    levels = torch.randint(0, 256, (2, 3, 50, 90), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    reward = open_blip_itc(folder)
    images = (levels / 255).requires_grad_()
    pixels = reward.prepare_tensor(images)
    pictures = [Image.fromarray(one.permute(1, 2, 0).numpy()) for one in levels]
    wanted = torch.stack([reward.prepare(picture) for picture in pictures])
    torch.testing.assert_close(pixels, wanted, atol=0.02, rtol=0)  # one level is 1 / 255 / 0.26 = 0.015
    reward.score_pixels(["blue", "red"], pixels).sum().backward()
    assert images.grad is not None
    assert (images.grad.flatten(1).abs().amax(dim=1) > 1e-6).all()


@pytest.mark.parametrize("name", OPENERS)
def test_a_broken_picture_is_nan_with_its_reason(folder, name):
    file = io.BytesIO()
    whole = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 4), dtype=np.uint8))
    whole.save(file, "PNG")
    failures: list[Failure] = []
    broken = Image.open(io.BytesIO(file.getvalue()[:3000]))
    scores = OPENERS[name](folder).score(["blue", "blue"], [broken, whole], failures)
    assert np.isnan(scores).tolist() == [True, False]
    assert [failure.index for failure in failures] == [0]
    assert "truncated" in failures[0].reason


def test_as_many_prompts_as_pictures(folder, pixels):
    with pytest.raises(ValueError, match="expected one prompt for each"):
        open_blip_itc(folder).score_pixels(["a"], pixels)


def test_what_is_no_retrieval_checkpoint_is_refused(folder, tmp_path):
    with pytest.raises(
        UserError, match=r"cannot be loaded.*give a folder or hub id such as Salesforce/blip-itm-large-coco"
    ):
        open_blip_itc(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no vocabulary for blip_itc is found at .*empty, "):
        open_blip_itc(folder, tokenizer=tmp_path / "empty")
    model = BlipForImageTextRetrieval.from_pretrained(folder)
    kept = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("itm_head")}
    model.save_pretrained(tmp_path, state_dict=kept)
    with pytest.raises(UserError, match=r"lacks itm_head.bias \(2 tensors in all\)"):
        open_blip_itm(tmp_path)
