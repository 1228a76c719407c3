"""The official numbers, for whoever has the official weights: `pytest -m weights tests/rewards/test_golden.py`.

`PALATE_WEIGHTS` names a folder with what is at hand of: `ImageReward.pt`, `bert-base-uncased/` and the reference's
`assets/images/{1,2,3,4}.webp` as `imagereward/`; `sac+logos+ava1-l14-linearMSE.pth`;
`HPS_v2_compressed.pt` and `HPS_v2.1_compressed.pt`; of HPSv2's benchmark, as `hpsv2/`, the prompts `<style>.json` (hub
`zhwang/HPDv2`, `benchmark/`) and a model's pictures `<model>/<style>/<00000>.jpg`; `PickScore_v1/`. A test whose files
are not there is skipped. Those that compare with a package of the authors need one that works beside today's libraries.
"""

import hashlib
import importlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from palate.rewards.aesthetic import collapse
from palate.rewards.hps import FILES, Version, open_hps
from palate.rewards.imagereward import open_imagereward
from palate.rewards.pickscore import open_pickscore
from palate.rewards.weights import load_tensors

pytestmark = pytest.mark.weights

OCEAN = "a painting of an ocean with clouds and birds, day time, low depth field effect"
PROMPTS = ["a photo of a red ball on a wooden table", "an oil painting of a harbour at night"]


def asset(*names: str) -> list[Path]:
    """Files of the folder that `PALATE_WEIGHTS` names, or the test is skipped."""
    root = os.environ.get("PALATE_WEIGHTS")
    if not root:
        pytest.skip("PALATE_WEIGHTS names no folder")
    found = [Path(root).expanduser() / name for name in names]
    if missing := [str(path) for path in found if not path.exists()]:
        pytest.skip(f"{missing[0]} is not there")
    return found


def package(name: str):
    """An authors' package, or the test is skipped: most do not even import beside today's libraries."""
    try:
        return importlib.import_module(name)
    except Exception as error:
        pytest.skip(f"{name} does not work here: {error}")


def pictures() -> list[Image.Image]:
    """Two that are not square and not of one size."""
    rng = np.random.default_rng(0)
    coarse = [Image.fromarray(rng.integers(0, 256, (9, 16, 3), dtype=np.uint8)) for _ in range(2)]
    sizes = [(768, 432), (512, 640)]
    return [one.resize(size, Image.Resampling.BICUBIC) for one, size in zip(coarse, sizes, strict=True)]


def test_imagereward_gives_the_four_numbers_of_its_readme():
    weights, bert, images = asset("ImageReward.pt", "bert-base-uncased", "imagereward")
    media = [Image.open(images / f"{number}.webp") for number in (1, 2, 3, 4)]
    scores = open_imagereward(weights, tokenizer=bert).score([OCEAN] * 4, media)
    expected = [0.5811622738838196, 0.2745276093482971, -1.4131819009780884, -2.029569625854492]
    np.testing.assert_allclose(scores, expected, rtol=0, atol=0.02)


def test_imagereward_is_that_of_the_package():
    weights, bert = asset("ImageReward.pt", "bert-base-uncased")
    reference = package("ImageReward").load(str(weights), device="cpu")
    ours = open_imagereward(weights, tokenizer=bert).score(PROMPTS, pictures())
    theirs = [reference.score(prompt, [picture]) for prompt, picture in zip(PROMPTS, pictures(), strict=True)]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=5e-3)


def test_the_aesthetic_head_is_the_affine_map_that_was_measured():
    (file,) = asset("sac+logos+ava1-l14-linearMSE.pth")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert digest == "21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0"
    weight, bias = collapse(load_tensors(file), str(file))
    assert (weight.norm().item(), bias.item()) == pytest.approx((17.9956, 5.236645), abs=1e-4)
    assert (weight.mean() * 768**0.5 + bias).item() == pytest.approx(4.883285, abs=1e-5)
    assert (weight[0] + bias).item() == pytest.approx(4.545052, abs=1e-5)


@pytest.mark.parametrize("version", list(FILES))
def test_hps_is_that_of_the_package(version: Version):
    (file,) = asset(FILES[version])
    score = package("hpsv2.img_score").score
    ours = open_hps(version, file).score(PROMPTS, pictures())
    theirs = [
        float(score(picture, prompt, cp=str(file), hps_version=version)[0])
        for prompt, picture in zip(PROMPTS, pictures(), strict=True)
    ]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=5e-4)  # the package rounds to float16 on GPUs


@pytest.mark.parametrize(
    ("version", "model", "expected"),
    [
        ("v2.0", "SDXL-base-0.9", 27.73),
        ("v2.0", "SD2.0", 27.17),
        ("v2.0", "SD1.4", 26.95),
        ("v2.1", "SDXL-base-0.9", 30.63),
        ("v2.1", "SD2.0", 26.38),
        ("v2.1", "SD1.4", 25.35),
    ],
)
def test_hps_gives_the_averages_of_its_readme(version: Version, model: str, expected: float):
    """Over four styles of 800 prompts, times 100; published before torchvision smoothed tensors."""
    file, folder, prompts = asset(FILES[version], f"hpsv2/{model}", "hpsv2")
    reward = open_hps(version, file, antialias=False, device="cuda" if torch.cuda.is_available() else "cpu")
    averages = []
    for style in ("anime", "concept-art", "paintings", "photo"):
        wishes = json.loads((prompts / f"{style}.json").read_text())
        media = [Image.open(folder / style / f"{number:05d}.jpg") for number in range(len(wishes))]
        averages.append(100 * reward.score(wishes, media).mean())
    assert np.mean(averages) == pytest.approx(expected, abs=0.1)


@torch.no_grad()
def test_pickscore_is_its_model_cards_formula():
    """The model card's formula with transformers' own processor and model."""
    from transformers import AutoProcessor, CLIPModel

    (folder,) = asset("PickScore_v1")
    processor, model = AutoProcessor.from_pretrained(folder), CLIPModel.from_pretrained(folder).eval()
    read = processor(text=PROMPTS, padding=True, truncation=True, max_length=77, return_tensors="pt")
    pixels = processor(images=pictures(), return_tensors="pt")["pixel_values"]
    image = torch.nn.functional.normalize(model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)
    text = torch.nn.functional.normalize(model.get_text_features(**read).pooler_output, dim=-1)
    expected = model.logit_scale.exp() * (image * text).sum(dim=-1)
    scores = open_pickscore(folder).score(PROMPTS, pictures())
    np.testing.assert_allclose(scores, expected.numpy(), rtol=0, atol=2e-3)
    assert ((scores > 10) & (scores < 30)).all()
