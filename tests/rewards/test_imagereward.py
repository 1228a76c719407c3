"""ImageReward against a forward pass written here from torch's own operations, over the official checkpoint's keys."""

import io
import logging
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2 as transforms

from palate.errors import UserError
from palate.rewards.blip_keys import imagereward_keys, rename_imagereward
from palate.rewards.imagereward import MEAN, STD, ImageReward, _texts_digest, build_towers, collapse, open_imagereward
from palate.rewards.reward import Failure, PixelReward

PROMPTS = ["a red circle", "two big blue square on the left of three small red circle", "blue", "the the the", "a a"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(" ".join(PROMPTS).split())]
TINY = {
    "vision": {"width": 128, "layers": 2, "mlp": 96, "patch": 8, "positions": 17},  # 32 x 32 pixels
    "text": {"width": 192, "layers": 3, "mlp": 80, "vocabulary": len(WORDS) + 2, "positions": 40},
}
FULL = {
    "vision": {"width": 1024, "layers": 24, "mlp": 4096, "patch": 16, "positions": 197},
    "text": {"width": 768, "layers": 12, "mlp": 3072, "vocabulary": 30524, "positions": 512},
}


def official_shapes(size: dict) -> dict[str, tuple[int, ...]]:
    """The tensors of ImageReward.pt, name -> shape, by the rule of its architecture."""
    v, t = size["vision"], size["text"]
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, outputs: int, inputs: int) -> None:
        shapes.update({f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)})

    def norm(name: str, width: int) -> None:
        shapes.update({f"{name}.weight": (width,), f"{name}.bias": (width,)})

    root = "blip.visual_encoder"
    shapes[f"{root}.cls_token"] = (1, 1, v["width"])
    shapes[f"{root}.pos_embed"] = (1, v["positions"], v["width"])
    shapes[f"{root}.patch_embed.proj.weight"] = (v["width"], 3, v["patch"], v["patch"])
    shapes[f"{root}.patch_embed.proj.bias"] = (v["width"],)
    for n in range(v["layers"]):
        norm(f"{root}.blocks.{n}.norm1", v["width"])
        linear(f"{root}.blocks.{n}.attn.qkv", 3 * v["width"], v["width"])
        linear(f"{root}.blocks.{n}.attn.proj", v["width"], v["width"])
        norm(f"{root}.blocks.{n}.norm2", v["width"])
        linear(f"{root}.blocks.{n}.mlp.fc1", v["mlp"], v["width"])
        linear(f"{root}.blocks.{n}.mlp.fc2", v["width"], v["mlp"])
    norm(f"{root}.norm", v["width"])

    root = "blip.text_encoder"
    shapes[f"{root}.embeddings.position_ids"] = (1, t["positions"])
    shapes[f"{root}.embeddings.word_embeddings.weight"] = (t["vocabulary"], t["width"])
    shapes[f"{root}.embeddings.position_embeddings.weight"] = (t["positions"], t["width"])
    norm(f"{root}.embeddings.LayerNorm", t["width"])
    for n in range(t["layers"]):
        for attention, seen in (("attention", t["width"]), ("crossattention", v["width"])):
            layer = f"{root}.encoder.layer.{n}.{attention}"
            linear(f"{layer}.self.query", t["width"], t["width"])
            linear(f"{layer}.self.key", t["width"], seen)
            linear(f"{layer}.self.value", t["width"], seen)
            linear(f"{layer}.output.dense", t["width"], t["width"])
            norm(f"{layer}.output.LayerNorm", t["width"])
        layer = f"{root}.encoder.layer.{n}"
        linear(f"{layer}.intermediate.dense", t["mlp"], t["width"])
        linear(f"{layer}.output.dense", t["width"], t["mlp"])
        norm(f"{layer}.output.LayerNorm", t["width"])
    linear("blip.vision_proj", 256, v["width"])
    linear("blip.text_proj", 256, t["width"])
    widths = [t["width"], 1024, 128, 64, 16, 1]
    for n, inputs, outputs in zip((0, 2, 4, 6, 7), widths[:-1], widths[1:], strict=True):
        linear(f"mlp.layers.{n}", outputs, inputs)
    return shapes


def random_state() -> dict[str, Tensor]:
    """A tiny checkpoint whose scores differ between pictures and prompts by tenths."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in official_shapes(TINY).items():
        spread = 1 / math.sqrt(shape[-1]) if len(shape) > 1 else 0.1
        state[name] = spread * torch.randn(shape, generator=generator)
        if "norm" in name.lower() and name.endswith("weight"):
            state[name] += 1
    state["blip.text_encoder.embeddings.position_ids"] = torch.arange(TINY["text"]["positions"])[None]
    return state


def attend(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None = None) -> Tensor:
    """Attention of heads 64 wide over `[n, t, width]`; `allowed` `[n, keys]` is False where a key is padding."""
    q, k, v = (x.unflatten(-1, (-1, 64)).transpose(1, 2) for x in (q, k, v))
    scores = q @ k.transpose(-1, -2) / 8
    if allowed is not None:
        scores = scores.masked_fill(~allowed[:, None, None, :], -math.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def reference_score(state: dict[str, Tensor], prompts: list[str], pixels: Tensor) -> Tensor:
    """ImageReward as its paper's code builds it: a pre-norm ViT, a post-norm BERT that looks at it, five linears."""

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(name: str, x: Tensor, eps: float) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)

    root, size = "blip.visual_encoder", TINY["vision"]
    kernel, bias = (state[f"{root}.patch_embed.proj.{kind}"] for kind in ("weight", "bias"))
    x = F.conv2d(pixels, kernel, bias, stride=size["patch"]).flatten(2).transpose(1, 2)
    x = torch.cat([state[f"{root}.cls_token"].expand(len(x), -1, -1), x], dim=1) + state[f"{root}.pos_embed"]
    for n in range(size["layers"]):
        block = f"{root}.blocks.{n}"
        x = x + linear(
            f"{block}.attn.proj", attend(*linear(f"{block}.attn.qkv", norm(f"{block}.norm1", x, 1e-6)).chunk(3, dim=-1))
        )
        x = x + linear(f"{block}.mlp.fc2", F.gelu(linear(f"{block}.mlp.fc1", norm(f"{block}.norm2", x, 1e-6))))
    picture = norm(f"{root}.norm", x, 1e-6)

    root = "blip.text_encoder"
    words = [["[CLS]", *prompt.split(), "[SEP]"] for prompt in prompts]
    ids = torch.tensor([[WORDS.index(word) for word in row + ["[PAD]"] * (35 - len(row))] for row in words])
    x = state[f"{root}.embeddings.word_embeddings.weight"][ids]
    x = norm(f"{root}.embeddings.LayerNorm", x + state[f"{root}.embeddings.position_embeddings.weight"][:35], 1e-12)
    for n in range(TINY["text"]["layers"]):
        layer = f"{root}.encoder.layer.{n}"
        for part, allowed in (("attention", ids != 0), ("crossattention", None)):
            seen = x if part == "attention" else picture
            q = linear(f"{layer}.{part}.self.query", x)
            k, v = linear(f"{layer}.{part}.self.key", seen), linear(f"{layer}.{part}.self.value", seen)
            output = linear(f"{layer}.{part}.output.dense", attend(q, k, v, allowed))
            x = norm(f"{layer}.{part}.output.LayerNorm", x + output, 1e-12)
        output = linear(f"{layer}.output.dense", F.gelu(linear(f"{layer}.intermediate.dense", x)))
        x = norm(f"{layer}.output.LayerNorm", x + output, 1e-12)
    raw = x[:, 0]
    for n in (0, 2, 4, 6, 7):
        raw = linear(f"mlp.layers.{n}", raw)
    return (raw[:, 0] - 0.16717362830052426) / 1.0333394966054072


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    return folder


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return random_state()


@pytest.fixture(scope="module")
def weights(tmp_path_factory, state) -> Path:
    file = tmp_path_factory.mktemp("weights") / "ImageReward.pt"
    torch.save(state, file)
    return file


@pytest.fixture
def reward(weights, tokenizer) -> ImageReward:
    return open_imagereward(weights, tokenizer=tokenizer)


def random_pixels(n: int) -> Tensor:
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def random_picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    channels = len(Image.new(mode, (1, 1)).getbands())
    values = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(values, mode)


def test_the_contract(reward):
    assert isinstance(reward, PixelReward)
    assert (reward.name, reward.modality, reward.differentiable, reward.size) == ("imagereward", "image", True, 32)
    assert not any(p.requires_grad for tower in (reward.vision, reward.text) for p in tower.parameters())


def test_scores_are_the_references(reward, state):
    pixels = random_pixels(5)
    expected = reference_score(state, PROMPTS, pixels)
    assert expected.std() > 0.05  # else the comparison would say little
    scores = reward.score_pixels(PROMPTS, pixels)
    assert (scores.shape, scores.dtype) == ((5,), torch.float32)
    torch.testing.assert_close(scores, expected, atol=1e-6, rtol=0)


def test_gradients_reach_the_pixels_and_are_the_references(reward, state):
    ours, theirs = (random_pixels(5).requires_grad_() for _ in range(2))
    reward.score_pixels(PROMPTS, ours).sum().backward()
    reference_score(state, PROMPTS, theirs).sum().backward()
    assert theirs.grad.flatten(1).norm(dim=1).min() > 1e-3
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-4)


def test_a_score_does_not_depend_on_the_batch(reward):
    pixels = random_pixels(5)
    together = reward.score_pixels(PROMPTS, pixels)
    alone = torch.cat([reward.score_pixels([PROMPTS[i]], pixels[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_a_trainers_autocast_changes_nothing(reward):
    pixels = random_pixels(2)
    with torch.autocast("cpu", torch.bfloat16):
        inside = reward.score_pixels(PROMPTS[:2], pixels)
    assert inside.tolist() == reward.score_pixels(PROMPTS[:2], pixels).tolist()


def test_bfloat16_towers_give_float32_scores_near_by(weights, tokenizer, reward):
    rough = open_imagereward(weights, tokenizer=tokenizer, dtype=torch.bfloat16)
    scores = rough.score_pixels(PROMPTS, random_pixels(5))
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, reward.score_pixels(PROMPTS, random_pixels(5)), atol=0.03, rtol=0)


def test_prompts_are_cut_at_35_tokens_and_the_user_is_told_once(reward, caplog):
    pixels = random_pixels(1)
    words = [WORDS[5 + i % 13] for i in range(60)]
    read = [" ".join(words[:n]) for n in (60, 34, 33, 32)]  # [CLS] and [SEP] take two of the 35
    with caplog.at_level(logging.WARNING):
        long, one_more, exactly, one_less = (reward.score_pixels([prompt], pixels).item() for prompt in read)
    assert long == one_more == exactly != one_less
    assert reward.prompts.cut == 2
    assert [record.message for record in caplog.records] == [
        "1 of 1 prompts are longer than the 35 tokens that imagereward reads; their ends are not judged (said once)"
    ]


def test_as_many_prompts_as_pictures(reward):
    with pytest.raises(ValueError, match="expected one prompt for each"):
        reward.score_pixels(["a"], random_pixels(2))
    with pytest.raises(ValueError, match="expected one prompt for each"):
        reward.score(["a"], [])


def test_the_constants_and_the_collapsed_mlp(state):
    # (0 - 0.16717362830052426) / 1.0333394966054072 and (1 - ...) / ..., by hand
    silent = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    assert collapse(silent)[1].item() == pytest.approx(-0.16178, abs=1e-6)
    silent["mlp.layers.7.bias"][:] = 1
    assert collapse(silent)[1].item() == pytest.approx(0.8059563, abs=1e-6)
    assert (MEAN, STD) == (0.16717362830052426, 1.0333394966054072)

    features = torch.randn(7, 192, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    layers = [torch.nn.Linear(*reversed(state[f"mlp.layers.{n}.weight"].shape)).double() for n in (0, 2, 4, 6, 7)]
    for n, layer in zip((0, 2, 4, 6, 7), layers, strict=True):
        layer.load_state_dict({kind: state[f"mlp.layers.{n}.{kind}"] for kind in ("weight", "bias")})
    expected = (torch.nn.Sequential(*layers)(features)[:, 0] - MEAN) / STD
    weight, bias = collapse(state)
    assert (weight.shape, weight.dtype, bias.shape) == ((192,), torch.float32, ())
    torch.testing.assert_close(features @ weight.double() + bias.double(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("width", "height"), [(300, 500), (511, 240), (320, 350), (224, 224), (100, 60)])
def test_pictures_are_prepared_as_the_reference_prepares_them(reward, width, height):
    """On the levels as tensors; tests/rewards/test_pixels.py holds torch's filter against Pillow's."""
    official = transforms.Compose(
        [
            transforms.PILToTensor(),
            transforms.Resize(32, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(32),
            transforms.ToDtype(torch.float32, scale=True),
            transforms.Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        ]
    )
    picture = random_picture(width, height)
    torch.testing.assert_close(reward.prepare(picture), official(picture), atol=1e-6, rtol=0)


def test_pictures_of_all_kinds_are_scored_and_a_broken_one_is_nan_with_its_reason(reward):
    whole = random_picture(64, 48)
    file = io.BytesIO()
    random_picture(200, 200).save(file, "PNG")
    truncated = Image.open(io.BytesIO(file.getvalue()[:3000]))
    transparent = whole.copy()
    transparent.putalpha(255)
    failures: list[Failure] = []
    media = [whole, truncated, transparent, whole.convert("L"), whole.convert("P")]
    scores = reward.score(["a red circle"] * 5, media, failures)
    assert scores.dtype == np.float32
    assert np.isnan(scores).tolist() == [False, True, False, False, False]
    assert [failure.index for failure in failures] == [1]
    assert "truncated" in failures[0].reason
    assert scores[2] == pytest.approx(scores[0], abs=1e-6)
    with torch.no_grad():
        direct = reward.score_pixels(["a red circle"], reward.prepare(whole)[None])
    assert scores[0] == pytest.approx(direct.item(), abs=1e-6)


def test_nothing_gives_nothing(reward):
    assert reward.score([], []).shape == (0,)


def test_safetensors_and_a_folder_are_opened_too(state, tokenizer, weights, reward, tmp_path):
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "ported.safetensors")
    pixels = random_pixels(1)
    expected = reward.score_pixels(["a"], pixels).item()
    for source in (tmp_path / "ported.safetensors", weights.parent):
        assert open_imagereward(source, tokenizer=tokenizer).score_pixels(["a"], pixels).item() == expected


def test_the_text_towers_config_may_be_given(weights, tokenizer, reward, tmp_path):
    pixels = random_pixels(1)
    for heads in (3, 6):  # three is what the width says
        (tmp_path / "med_config.json").write_text(f'{{"num_attention_heads": {heads}, "hidden_size": 192}}')
        other = open_imagereward(weights, tmp_path / "med_config.json", tokenizer)
        same = other.score_pixels(["a red"], pixels).item() == reward.score_pixels(["a red"], pixels).item()
        assert same == (heads == 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "holds no JSON object"),
        ("{", "cannot be read as JSON"),
        ('{"num_attention_heads": "3"}', "num_attention_heads is '3', which is no int"),
        ('{"num_attention_heads": 7}', "192.* not a multiple of the number of attention heads"),
        ('{"hidden_act": "snake"}', "hidden_act 'snake' is unknown; transformers has gelu"),
    ],
)
def test_a_wrong_config_is_refused(weights, tokenizer, tmp_path, text, message):
    (tmp_path / "med_config.json").write_text(text)
    with pytest.raises(UserError, match=message):
        open_imagereward(weights, tmp_path / "med_config.json", tokenizer)


class Code:
    def __reduce__(self):
        return (os.getcwd, ())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda state: [state.pop("mlp.layers.7.bias")], r"1 key missing \(mlp.layers.7.bias\)"),
        (lambda state: state.update({"blip.itm_head.weight": torch.ones(1)}), r"1 key unexpected \(blip.itm_head.weig"),
        (lambda state: state.update({"mlp.layers.7.weight": 3}), "holds no state dict"),
        (lambda state: state.update({"mlp.layers.7.weight": Code()}), "damaged or holds more than tensors"),
        (
            lambda state: state.update({"blip.text_encoder.embeddings.LayerNorm.bias": torch.ones(7)}),
            "do not fit together.*LayerNorm.bias",
        ),
        (lambda state: state.update({"mlp.layers.2.weight": torch.ones(9, 7)}), "fit together .mlp.layers.2 .*1024"),
        (lambda state: state.update({"mlp.layers.2.bias": torch.ones(1)}), "fit together .mlp.layers.2 "),
        (lambda state: state.update({"mlp.layers.0.weight": torch.ones(1024, 7)}), "layers.0 .* behind 192 values"),
        (lambda state: state.update({"mlp.layers.7.weight": torch.ones(2, 16)}), "fit together .mlp.layers.7 "),
        (
            lambda state: state.update({"blip.visual_encoder.pos_embed": torch.ones(1, 16, 128)}),
            "15 patches, which make no square",
        ),
        (
            lambda state: state.update({"blip.visual_encoder.patch_embed.proj.weight": torch.ones(100, 3, 8, 8)}),
            "vision tower is 100 wide",
        ),
    ],
)
def test_a_file_that_is_not_imagereward_is_refused(state, tokenizer, tmp_path, damage, message):
    state = dict(state)
    damage(state)
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(UserError, match=message) as error:
        open_imagereward(tmp_path / "other.pt", tokenizer=tokenizer)
    assert "\n" not in str(error.value)
    assert "other.pt" in str(error.value) or "tower" in str(error.value)


def test_a_file_of_another_model_is_refused_in_one_short_line(tmp_path):
    torch.save({f"layers.{n}": torch.ones(1) for n in range(1000)}, tmp_path / "aesthetic.pt")
    with pytest.raises(UserError, match=r"missing \(.*, …\) and 1000 keys unexpected \(layers.0, layers.1, ") as error:
        open_imagereward(tmp_path / "aesthetic.pt")
    assert len(str(error.value)) < 500


def test_files_that_are_not_there_or_are_cut_are_named(weights, tmp_path):
    with pytest.raises(UserError, match=r"nowhere.pt does not exist; give the path of ImageReward.pt"):
        open_imagereward("nowhere.pt")
    (tmp_path / "cut.pt").write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"cut.pt cannot be read"):
        open_imagereward(tmp_path / "cut.pt")


def test_a_tokenizer_of_another_vocabulary_is_refused(weights, tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS[:7]))
    with pytest.raises(UserError, match=f"has 7 tokens and the text tower of imagereward {len(WORDS) + 2}"):
        open_imagereward(weights, tokenizer=tmp_path)


def test_at_full_size_every_official_key_has_its_place():
    shapes = official_shapes(FULL)
    assert len(shapes) == 625
    state = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    counted = sum(t.numel() for name, t in state.items() if not name.endswith("position_ids"))
    assert counted == 446_665_953

    vision, text = build_towers(rename_imagereward(state))  # loads strictly: none missing, none left over
    towers = sum(p.numel() for tower in (vision, text) for p in tower.parameters())
    rest = sum(
        t.numel() for name, t in state.items() if name.startswith(("mlp.", "blip.vision_proj", "blip.text_proj"))
    )
    assert towers + rest == 446_665_953
    assert (vision.config.image_size, vision.config.num_attention_heads, vision.config.layer_norm_eps) == (
        224,
        16,
        1e-6,
    )
    assert (text.config.num_attention_heads, text.config.layer_norm_eps, text.config.is_decoder) == (12, 1e-12, True)


def test_renaming_goes_there_and_back(state):
    names = imagereward_keys(vision_layers=2, text_layers=3)
    renamed = rename_imagereward(state)
    back = {key: renamed[name] for key, name in names.items()}
    assert len(set(names.values())) == len(names)
    unused = {f"blip.{side}_proj.{kind}" for side in ("vision", "text") for kind in ("weight", "bias")}
    assert back.keys() == state.keys() - unused - {"blip.text_encoder.embeddings.position_ids"}
    assert all(back[key] is state[key] for key in back)
    assert (
        names["blip.visual_encoder.blocks.1.attn.proj.bias"]
        == "vision_model.encoder.layers.1.self_attn.projection.bias"
    )
    assert names["blip.visual_encoder.norm.weight"] == "vision_model.post_layernorm.weight"


@pytest.mark.weights
def test_the_four_published_rewards():
    """The README's example: four 512 x 512 pictures (assets/images/1.webp to 4.webp of THUDM/ImageReward)."""
    weights, pictures = os.environ.get("PALATE_IMAGEREWARD"), os.environ.get("PALATE_IMAGEREWARD_PICTURES")
    if not weights or not pictures:
        pytest.skip("PALATE_IMAGEREWARD names no ImageReward.pt or PALATE_IMAGEREWARD_PICTURES no folder of 1..4.webp")
    reward = open_imagereward(weights, tokenizer=os.environ.get("PALATE_BERT"))
    prompt = "a painting of an ocean with clouds and birds, day time, low depth field effect"
    scores = reward.score([prompt] * 4, [Image.open(Path(pictures) / f"{n}.webp") for n in (1, 2, 3, 4)])
    published = [0.5811622738838196, 0.2745276093482971, -1.4131819009780884, -2.029569625854492]
    assert scores.tolist() == pytest.approx(published, abs=0.02)


def test_what_a_tokenizer_reads_beside_the_vocabulary_counts(tmp_path):
    (tmp_path / "vocab.txt").write_text("[UNK]\n")
    digests = [_texts_digest(tmp_path)]
    for text in ('{"do_lower_case": true}', '{"do_lower_case": false}'):
        (tmp_path / "tokenizer_config.json").write_text(text)
        digests.append(_texts_digest(tmp_path))
    (tmp_path / "vocab.txt").write_text("[CLS]\n")
    digests.append(_texts_digest(tmp_path))
    assert len(set(digests)) == 4
