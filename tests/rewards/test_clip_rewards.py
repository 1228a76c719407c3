import hashlib
import io
import os
import re
import shutil

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tv
from transformers import CLIPImageProcessor, CLIPModel

from palate.errors import UserError
from palate.rewards import aesthetic
from palate.rewards.aesthetic import HEAD_FILE, collapse, open_aesthetic
from palate.rewards.clip_keys import Heads
from palate.rewards.clip_score import open_clip_score
from palate.rewards.hps import open_hps
from palate.rewards.pickscore import open_pickscore
from palate.rewards.reward import Failure, PixelReward, Reward

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
PROMPTS = ["a red cube", "Two dogs on a café's roof", "a red cube", "word " * 100]
HEADS = Heads(text=4, vision=2)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


PICTURES = [
    picture(40, 60),
    picture(28, 28, 1),
    picture(59, 28, 2),
    picture(31, 90, 3),
]  # the third is where the two middles differ


def truncated() -> Image.Image:
    file = io.BytesIO()
    picture(64, 64).save(file, "PNG")
    return Image.open(io.BytesIO(file.getvalue()[:4000]))


def transformers_model(folder) -> tuple[CLIPModel, CLIPImageProcessor]:
    size = {"height": 28, "width": 28}
    return CLIPModel.from_pretrained(folder).eval(), CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=size)


def head(width: int = 16) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        layers = [nn.Linear(width, 20), nn.Dropout(0.2), nn.Linear(20, 8), nn.Dropout(0.2), nn.Linear(8, 6)]
        return nn.Sequential(*layers, nn.Dropout(0.1), nn.Linear(6, 4), nn.Linear(4, 1)).eval()


@pytest.fixture(scope="module")
def head_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("head") / "head.pth"
    torch.save({f"layers.{key}": value for key, value in head().state_dict().items()}, path)
    return path


@pytest.fixture(scope="module")
def hps_file(make_open_clip, tmp_path_factory):
    """As the official one: float16 under the key `state_dict`."""
    path = tmp_path_factory.mktemp("hps") / "HPS_v2.1_compressed.pt"
    torch.save({"state_dict": make_open_clip().half().state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def rewards(gelu_folder, quick_gelu_folder, head_file, hps_file) -> dict[str, PixelReward]:
    return {
        "pickscore": open_pickscore(gelu_folder),
        "hps": open_hps("v2.1", hps_file, heads=HEADS),
        "clip_score": open_clip_score(quick_gelu_folder),
        "aesthetic": open_aesthetic(quick_gelu_folder, head_file),
    }


EACH = pytest.mark.parametrize("name", ["pickscore", "hps", "clip_score", "aesthetic"])


@torch.no_grad()
def test_pickscore_is_the_logit_that_transformers_gives(rewards, gelu_folder, tokenizer):
    model, processor = transformers_model(gelu_folder)
    inputs = tokenizer(PROMPTS, padding="max_length", truncation=True, max_length=77, return_tensors="pt")
    wanted = model(**inputs, **processor(PICTURES, return_tensors="pt")).logits_per_image.diag()
    scores = rewards["pickscore"].score(PROMPTS, PICTURES)
    assert scores.dtype == np.float32
    assert np.abs(scores).max() > 1
    torch.testing.assert_close(torch.from_numpy(scores) / 100, wanted / 100, rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("antialias", [True, False])
def test_hps_is_the_cosine_that_open_clip_gives_of_the_letterboxed_picture(make_open_clip, hps_file, antialias):
    model = make_open_clip().half().float()
    rows = []
    for one in PICTURES:
        pixels = tv.to_tensor(one)
        height, width = (round(side * 28 / max(one.size)) for side in pixels.shape[1:])
        pixels = tv.resize(pixels, [height, width], tv.InterpolationMode.BICUBIC, antialias=antialias)
        left, top = (28 - width) // 2, (28 - height) // 2
        pixels = tv.pad(pixels, [left, top, 28 - width - left, 28 - height - top])
        rows.append(tv.normalize(pixels, list(MEAN), list(STD)))
    image = model.encode_image(torch.stack(rows), normalize=True)
    text = model.encode_text(open_clip.get_tokenizer("ViT-H-14")(PROMPTS), normalize=True)
    reward = open_hps("v2.1", hps_file, antialias=antialias, heads=HEADS)
    assert reward.name == "hpsv2.1"
    scores = torch.from_numpy(reward.score(PROMPTS, PICTURES))
    torch.testing.assert_close(scores, (image * text).sum(dim=-1), rtol=0, atol=1e-6)


def openai_transform(one: Image.Image) -> torch.Tensor:
    """torchvision's functions, of 8-bit tensors; tests/rewards/test_pixels.py holds them against Pillow's."""
    levels = tv.center_crop(tv.resize(tv.pil_to_tensor(one), [28], tv.InterpolationMode.BICUBIC), [28])
    return tv.normalize(levels / 255, list(MEAN), list(STD))


@torch.no_grad()
def test_clip_score_is_the_cosine_and_aesthetic_the_layers_in_turn(rewards, quick_gelu_folder, tokenizer):
    model, _ = transformers_model(quick_gelu_folder)
    pixels = torch.stack([openai_transform(one) for one in PICTURES])
    image = F.normalize(model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)
    inputs = tokenizer(PROMPTS, padding="max_length", truncation=True, max_length=77, return_tensors="pt")
    text = F.normalize(model.get_text_features(**inputs).pooler_output, dim=-1)
    cosines = torch.from_numpy(rewards["clip_score"].score(PROMPTS, PICTURES))
    torch.testing.assert_close(cosines, (image * text).sum(dim=-1), rtol=0, atol=1e-6)
    ratings = torch.from_numpy(rewards["aesthetic"].score([""] * 4, PICTURES))
    torch.testing.assert_close(ratings, head()(image)[:, 0], rtol=0, atol=1e-6)


@EACH
def test_it_keeps_the_contract(rewards, name):
    reward = rewards[name]
    assert isinstance(reward, PixelReward)
    assert isinstance(reward, Reward)
    assert (reward.modality, reward.differentiable) == ("image", True)
    assert reward.prepare(PICTURES[0]).shape == (3, 28, 28)
    with pytest.raises(ValueError, match="got 1 prompts and 4 media"):
        reward.score(["a"], PICTURES)
    with pytest.raises(ValueError, match="got 1 prompts and 2 media"):
        reward.score_pixels(["a"], torch.zeros(2, 3, 28, 28))
    assert reward.score([], []).shape == (0,)


@EACH
def test_a_value_does_not_depend_on_its_company(rewards, name):
    prompts, pictures = PROMPTS * 10, PICTURES * 10  # 40 rows are two batches
    together = rewards[name].score(prompts, pictures)
    alone = [rewards[name].score([p], [m])[0] for p, m in zip(PROMPTS, PICTURES, strict=True)]
    np.testing.assert_allclose(together, alone * 10, rtol=0, atol=1e-5)
    assert len(set(alone)) == 4


@EACH
def test_a_picture_that_cannot_be_decoded_is_nan_and_the_others_stand(rewards, name):
    failures: list[Failure] = []
    scores = rewards[name].score(PROMPTS, [PICTURES[0], truncated(), *PICTURES[2:]], failures)
    assert failures == [Failure(1, "image file is truncated")]
    assert np.isnan(scores).tolist() == [False, True, False, False]
    np.testing.assert_allclose(scores[[0, 2, 3]], rewards[name].score(PROMPTS, PICTURES)[[0, 2, 3]], rtol=0, atol=1e-5)


@EACH
def test_transparent_palette_and_16_bit_pictures_have_a_score(rewards, name):
    rgb = picture(40, 60)
    palette = rgb.quantize(8)
    grey = Image.fromarray(np.arange(2400, dtype=np.uint16).reshape(40, 60) * 27)
    pictures = [rgb, rgb.convert("RGBA"), palette, palette.convert("RGB"), grey, rgb.convert("LA")]
    scores = rewards[name].score(["a red cube"] * 6, pictures)
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(scores[[0, 2]], scores[[1, 3]], rtol=0, atol=1e-6)


@EACH
def test_gradients_reach_every_image(rewards, name):
    images = torch.rand(2, 3, 40, 30, generator=torch.Generator().manual_seed(0)).requires_grad_()
    pixels = rewards[name].prepare_tensor(images)
    scores = rewards[name].score_pixels(["a red cube", "a dog"], pixels)
    scores.sum().backward()
    assert scores.dtype == torch.float32
    assert images.grad is not None
    assert (images.grad.flatten(1).abs().amax(dim=1) > 1e-6).all()
    assert all(parameter.grad is None for parameter in rewards[name].tower.model.parameters())


def test_the_gradient_is_the_slope_of_the_score(rewards):
    reward = rewards["hps"]
    images = torch.rand(1, 3, 28, 28, generator=torch.Generator().manual_seed(1)).requires_grad_()
    reward.score_pixels(["a dog"], reward.prepare_tensor(images)).sum().backward()
    step = 1e-2 * images.grad / images.grad.norm()
    with torch.no_grad():
        above, below = (reward.score_pixels(["a dog"], reward.prepare_tensor(images + s)) for s in (step, -step))
    assert (above - below).item() / 2e-2 == pytest.approx(images.grad.norm().item(), rel=1e-2)


def test_the_collapsed_head_is_the_layers_in_turn():
    layers = head(768).double()
    weight, bias = collapse({f"layers.{key}": value for key, value in layers.state_dict().items()})
    assert (weight.dtype, bias.dtype, weight.shape, bias.shape) == (torch.float32, torch.float32, (768,), ())
    features = F.normalize(torch.randn(5, 768, generator=torch.Generator().manual_seed(0)), dim=-1)
    torch.testing.assert_close(features @ weight + bias, layers(features.double())[:, 0].float(), rtol=0, atol=1e-6)


def test_a_head_by_hand():
    state = {}
    for layer, factor, shift in ((0, 2.0, 1.0), (2, 3.0, 0.0), (4, 1.0, -1.0), (6, 1.0, 0.0), (7, 0.5, 4.0)):
        state[f"layers.{layer}.weight"], state[f"layers.{layer}.bias"] = torch.tensor([[factor]]), torch.tensor([shift])
    weight, bias = collapse(state)  # ((2x + 1) * 3 - 1) / 2 + 4
    assert (weight.tolist(), bias.item()) == ([3.0], 5.0)


def test_a_wrong_head_is_told(quick_gelu_folder, tmp_path):
    state = {f"layers.{key}": value for key, value in head(8).state_dict().items()}
    with pytest.raises(UserError, match=r"x.pth lacks layers.7.bias; it should hold layers.\{0,2,4,6,7\}"):
        collapse({key: value for key, value in state.items() if key != "layers.7.bias"}, "x.pth")
    with pytest.raises(UserError, match=r"has the unknown key linear.weight"):
        collapse({**state, "linear.weight": torch.zeros(1)}, "x.pth")
    for name, shape in [
        ("layers.2.weight", (8, 3)),
        ("layers.2.bias", (1,)),  # torch itself would stretch it
        ("layers.2.bias", (128, 1)),
        ("layers.0.weight", ()),
        ("layers.0.weight", (8,)),
        ("layers.7.weight", (2, 16)),
        ("layers.7.bias", ()),
    ]:
        with pytest.raises(UserError, match=r"x.pth: its layers do not fit on each other .*; is it sac\+logos") as told:
            collapse({**state, name: torch.zeros(shape)}, "x.pth")
        assert "\n" not in str(told.value)
    torch.save(state, tmp_path / "head.pth")
    with pytest.raises(UserError, match=r"reads features of 8 numbers and .* gives 16"):
        open_aesthetic(quick_gelu_folder, tmp_path / "head.pth")
    with pytest.raises(UserError, match=r"none.pth does not exist; give the path of sac\+logos"):
        open_aesthetic(quick_gelu_folder, tmp_path / "none.pth")


def test_the_official_head_is_known_by_its_checksum_in_the_cache_too(
    quick_gelu_folder, head_file, tmp_path, monkeypatch
):
    downloads = []

    def download(url: str, file: str, hash_prefix: str, progress: bool) -> None:
        downloads.append((url, file, hash_prefix))
        shutil.copy(head_file, file)

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    monkeypatch.setattr(aesthetic, "HEAD_SHA256", hashlib.sha256(head_file.read_bytes()).hexdigest())
    cached = tmp_path / "checkpoints" / HEAD_FILE
    for _ in range(2):
        open_aesthetic(quick_gelu_folder)
    assert downloads == [(aesthetic.HEAD_URL, str(cached), aesthetic.HEAD_SHA256)]
    torch.save({name: value + 1 for name, value in torch.load(head_file, weights_only=True).items()}, cached)
    with pytest.raises(UserError, match=f"^{re.escape(str(cached))} is damaged or another head; remove it") as told:
        open_aesthetic(quick_gelu_folder)
    assert "\n" not in str(told.value)
    open_aesthetic(quick_gelu_folder, cached)  # the user's own


def test_an_unknown_version_of_hps_is_told(hps_file):
    with pytest.raises(UserError, match=r"hps version 'v2' is unknown; palate knows v2.0, v2.1"):
        open_hps("v2", hps_file)  # type: ignore[arg-type]
    assert open_hps("v2.1", hps_file.parent, heads=HEADS).name == "hpsv2.1"
    with pytest.raises(UserError, match=r"HPS_v2_compressed.pt does not exist"):
        open_hps("v2.0", hps_file.parent, heads=HEADS)


@pytest.mark.weights
@pytest.mark.skipif("PALATE_AESTHETIC_HEAD" not in os.environ, reason=f"PALATE_AESTHETIC_HEAD: path of {HEAD_FILE}")
def test_the_official_head_gives_its_numbers():
    weight, bias = collapse(torch.load(os.environ["PALATE_AESTHETIC_HEAD"], map_location="cpu", weights_only=True))
    assert weight.norm().item() == pytest.approx(17.9956, abs=1e-4)
    assert bias.item() == pytest.approx(5.236645, abs=1e-6)
    assert (weight.mean() * 768**0.5 + bias).item() == pytest.approx(4.883285, abs=1e-5)
    assert (weight[0] + bias).item() == pytest.approx(4.545052, abs=1e-5)
