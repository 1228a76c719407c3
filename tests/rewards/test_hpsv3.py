"""HPSv3 against a forward pass written here from torch's own operations, over the official checkpoint's keys."""

import io
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import init_empty_weights
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import Qwen2Tokenizer, Qwen2VLConfig
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from palate.errors import UserError
from palate.rewards.hpsv3 import Hpsv3, open_hpsv3
from palate.rewards.hpsv3_model import Hpsv3Network, build_hpsv3, official_name
from palate.rewards.hpsv3_prompts import INSTRUCTION, SUFFIX
from palate.rewards.reward import Failure, PixelReward, Reward

MARKS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
BYTES = [
    *map(chr, [*range(33, 127), *range(161, 173), *range(174, 256)]),
    *map(chr, range(256, 324)),
]  # byte-level BPE's
VOCABULARY = len(BYTES) + len(MARKS) + 1
PROMPTS = ["a red circle", "two big blue squares on the left of three small red circles", "Ω"]
SIZES = [(300, 200), (64, 64), (90, 500)]

TINY = {
    "text": {"vocab": VOCABULARY, "width": 32, "mlp": 48, "layers": 2, "heads": 4, "kv": 2, "theta": 1e6, "eps": 1e-6},
    "vision": {"width": 48, "layers": 2, "heads": 2},
    "sections": [2, 1, 1],
}
FULL = {
    "text": {
        "vocab": 151658,
        "width": 3584,
        "mlp": 18944,
        "layers": 28,
        "heads": 28,
        "kv": 4,
        "theta": 1e6,
        "eps": 1e-6,
    },
    "vision": {"width": 1280, "layers": 32, "heads": 16},
    "sections": [16, 24, 24],
}


def hub_config(size: dict) -> dict:
    """config.json as the hub's Qwen2-VL has it: flat, of before transformers 5."""
    t, v = size["text"], size["vision"]
    return {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        "hidden_size": t["width"],
        "intermediate_size": t["mlp"],
        "num_hidden_layers": t["layers"],
        "num_attention_heads": t["heads"],
        "num_key_value_heads": t["kv"],
        "rms_norm_eps": t["eps"],
        "rope_theta": t["theta"],
        "rope_scaling": {"type": "mrope", "mrope_section": size["sections"]},
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": t["vocab"] + 406,  # padded; HPSv3's embedding is cut to the tokenizer's length
        "vision_config": {
            "depth": v["layers"],
            "embed_dim": v["width"],
            "hidden_size": t["width"],
            "in_chans": 3,
            "mlp_ratio": 4,
            "num_heads": v["heads"],
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
        },
    }


def official_shapes(size: dict) -> dict[str, tuple[int, ...]]:
    """The tensors of HPSv3.safetensors, name -> shape, by the rule of its architecture in transformers 4.45."""
    t, v = size["text"], size["vision"]
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, outputs: int, inputs: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = (outputs, inputs)
        if bias:
            shapes[f"{name}.bias"] = (outputs,)

    def norm(name: str, width: int) -> None:
        shapes.update({f"{name}.weight": (width,), f"{name}.bias": (width,)})

    shapes["visual.patch_embed.proj.weight"] = (v["width"], 3, 2, 14, 14)
    for n in range(v["layers"]):
        block = f"visual.blocks.{n}"
        norm(f"{block}.norm1", v["width"])
        norm(f"{block}.norm2", v["width"])
        linear(f"{block}.attn.qkv", 3 * v["width"], v["width"])
        linear(f"{block}.attn.proj", v["width"], v["width"])
        linear(f"{block}.mlp.fc1", 4 * v["width"], v["width"])
        linear(f"{block}.mlp.fc2", v["width"], 4 * v["width"])
    norm("visual.merger.ln_q", v["width"])
    linear("visual.merger.mlp.0", 4 * v["width"], 4 * v["width"])
    linear("visual.merger.mlp.2", t["width"], 4 * v["width"])

    shapes["model.embed_tokens.weight"] = shapes["lm_head.weight"] = (t["vocab"], t["width"])
    keys = t["width"] // t["heads"] * t["kv"]
    for n in range(t["layers"]):
        layer = f"model.layers.{n}"
        linear(f"{layer}.self_attn.q_proj", t["width"], t["width"])
        linear(f"{layer}.self_attn.k_proj", keys, t["width"])
        linear(f"{layer}.self_attn.v_proj", keys, t["width"])
        linear(f"{layer}.self_attn.o_proj", t["width"], t["width"], bias=False)
        linear(f"{layer}.mlp.gate_proj", t["mlp"], t["width"], bias=False)
        linear(f"{layer}.mlp.up_proj", t["mlp"], t["width"], bias=False)
        linear(f"{layer}.mlp.down_proj", t["width"], t["mlp"], bias=False)
        shapes[f"{layer}.input_layernorm.weight"] = shapes[f"{layer}.post_attention_layernorm.weight"] = (t["width"],)
    shapes["model.norm.weight"] = (t["width"],)
    for n, outputs, inputs in ((0, 1024, t["width"]), (3, 16, 1024), (5, 2, 16)):
        linear(f"rm_head.{n}", outputs, inputs)
    return shapes


def random_state() -> dict[str, Tensor]:
    """A tiny checkpoint whose scores differ between pictures and prompts by tenths."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in official_shapes(TINY).items():
        spread = 2 / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 0.1
        state[name] = spread * torch.randn(shape, generator=generator)
        if "norm" in name or "ln_q" in name:
            state[name] += name.endswith("weight")
    state["model.embed_tokens.weight"] *= 3
    state["rm_head.5.weight"] /= 4
    return state


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotary positions: `x` `[heads, t, d]` by `angles` `[t, d / 2]`, first half with second half."""
    cos, sin = angles.cos().float(), angles.sin().float()
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """Attention over `[heads, t, d]`; `[t, heads * d]`."""
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if causal:
        scores = scores.masked_fill(torch.ones_like(scores[0], dtype=torch.bool).triu(1), -math.inf)
    return (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)


def frequencies(theta: float, width: int) -> Tensor:
    """Of rotary positions for so many dimensions, rounded to bfloat16 as the reference's `model.to` does."""
    return (1 / theta ** (torch.arange(0, width, 2).float() / width)).bfloat16()


def reference(state: dict[str, Tensor], prompt: str, picture: Image.Image) -> Tensor:
    """HPSv3's two outputs for one picture by the definition: nothing is padded, positions are 0, 1, 2, ..."""

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    def rms(name: str, x: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + TINY["text"]["eps"]).rsqrt() * state[f"{name}.weight"]

    def heads(x: Tensor, count: int) -> Tensor:
        return x.unflatten(-1, (count, -1)).transpose(0, 1)

    processor = Qwen2VLImageProcessorPil(size={"shortest_edge": 200704, "longest_edge": 200704})
    inputs = processor(picture.convert("RGB"), return_tensors="pt")
    _, rows, columns = inputs["image_grid_thw"][0].tolist()
    x = F.linear(inputs["pixel_values"], state["visual.patch_embed.proj.weight"].flatten(1))
    row = torch.arange(rows)[:, None].expand(rows, columns)
    column = torch.arange(columns)[None].expand(rows, columns)
    places = [p.reshape(rows // 2, 2, columns // 2, 2).transpose(1, 2).flatten() for p in (row, column)]
    wide = TINY["vision"]["width"] // TINY["vision"]["heads"]
    angles = torch.cat([p.bfloat16()[:, None] * frequencies(1e4, wide // 2) for p in places], dim=1)
    for n in range(TINY["vision"]["layers"]):
        block = f"visual.blocks.{n}"
        q, k, v = (heads(y, 2) for y in linear(f"{block}.attn.qkv", norm(f"{block}.norm1", x)).chunk(3, dim=-1))
        x = x + linear(f"{block}.attn.proj", attend(rotate(q, angles), rotate(k, angles), v, causal=False))
        y = linear(f"{block}.mlp.fc1", norm(f"{block}.norm2", x))
        x = x + linear(f"{block}.mlp.fc2", y * torch.sigmoid(1.702 * y))
    x = norm("visual.merger.ln_q", x).reshape(rows * columns // 4, -1)
    seen = linear("visual.merger.mlp.2", F.gelu(linear("visual.merger.mlp.0", x)))

    text = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|><|image_pad|>"
        "<|vision_end|>" + INSTRUCTION.replace("{text_prompt}", prompt) + SUFFIX + "<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = token_ids(text)
    place = ids.index(len(BYTES) + MARKS.index("<|image_pad|>"))
    embedding = state["model.embed_tokens.weight"]
    x = torch.cat((embedding[ids[:place]], seen, embedding[ids[place + 1 :]]))
    t = TINY["text"]
    angles = torch.arange(len(x))[:, None] * frequencies(t["theta"], t["width"] // t["heads"]).float()
    for n in range(t["layers"]):
        layer = f"model.layers.{n}"
        y = rms(f"{layer}.input_layernorm", x)
        q, k, v = (heads(linear(f"{layer}.self_attn.{p}_proj", y), t["heads" if p == "q" else "kv"]) for p in "qkv")
        k, v = (z.repeat_interleave(t["heads"] // t["kv"], dim=0) for z in (rotate(k, angles), v))
        x = x + linear(f"{layer}.self_attn.o_proj", attend(rotate(q, angles), k, v, causal=True))
        y = rms(f"{layer}.post_attention_layernorm", x)
        y = F.silu(linear(f"{layer}.mlp.gate_proj", y)) * linear(f"{layer}.mlp.up_proj", y)
        x = x + linear(f"{layer}.mlp.down_proj", y)
    read = place + len(seen) + ids[place + 1 :].index(VOCABULARY - 1)
    x = rms("model.norm", x)[read]
    for n in (0, 3):
        x = linear(f"rm_head.{n}", x).relu()
    return linear("rm_head.5", x)


def token_ids(text: str) -> list[int]:
    """Byte by byte, marks apart: what a byte-level BPE without merges does."""
    marks = [*MARKS, "<|Reward|>"]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    order = {byte: index for index, byte in enumerate([*printable, *sorted(set(range(256)) - set(printable))])}
    ids = []
    while text:
        mark = next((mark for mark in marks if text.startswith(mark)), None)
        ids += [len(BYTES) + marks.index(mark)] if mark else [order[byte] for byte in text[0].encode()]
        text = text[len(mark) if mark else 1 :]
    return ids


def random_picture(width: int, height: int) -> Image.Image:
    rough = np.random.default_rng(width).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    return Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A tiny Qwen2-VL's folder without weights."""
    folder = tmp_path_factory.mktemp("qwen")
    (folder / "config.json").write_text(json.dumps(hub_config(TINY)))
    tokenizer = Qwen2Tokenizer(vocab={token: index for index, token in enumerate(BYTES)}, merges=[])
    tokenizer.add_tokens(MARKS, special_tokens=True)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return random_state()


@pytest.fixture(scope="module")
def weights(tmp_path_factory, state) -> Path:
    file = tmp_path_factory.mktemp("weights") / "HPSv3.safetensors"
    save_file(state, file)
    return file


@pytest.fixture(scope="module")
def reward(weights, base) -> Hpsv3:
    return open_hpsv3(weights, base)


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return [random_picture(*size) for size in SIZES]


@pytest.fixture(scope="module")
def judged(reward, pictures) -> np.ndarray:
    return reward.judge(PROMPTS, pictures)


def test_the_contract(reward):
    assert isinstance(reward, Reward)
    assert not isinstance(reward, PixelReward)  # inputs have no common shape
    assert (reward.name, reward.modality, reward.batched, reward.differentiable) == ("hpsv3", "image", True, False)
    assert not any(parameter.requires_grad for parameter in reward.network.parameters())
    assert {parameter.device.type for parameter in reward.network.parameters()} == {"cpu"}


def test_outputs_are_the_references(state, pictures, judged):
    expected = torch.stack([reference(state, *pair) for pair in zip(PROMPTS, pictures, strict=True)])
    assert expected.std(dim=0).min() > 0.05  # else the comparison would say little
    assert (judged.shape, judged.dtype) == ((3, 2), np.float32)
    np.testing.assert_allclose(judged, expected.numpy(), atol=1e-5, rtol=0)


def test_prompt_and_picture_both_count(reward, pictures, judged):
    assert abs(reward.score([PROMPTS[1]], pictures[:1])[0] - judged[0, 0]) > 1e-3
    assert abs(reward.score(PROMPTS[:1], pictures[1:2])[0] - judged[0, 0]) > 1e-3


def test_a_score_does_not_depend_on_the_batch(reward, pictures, judged):
    alone = Hpsv3(reward.network, reward.prompts, batch_size=1).judge(PROMPTS, pictures)
    np.testing.assert_allclose(alone, judged, atol=1e-5, rtol=0)
    pairs = Hpsv3(reward.network, reward.prompts, batch_size=2).judge(PROMPTS[::-1], pictures[::-1])
    np.testing.assert_allclose(pairs[::-1], judged, atol=1e-5, rtol=0)


def test_gradients_reach_the_pixels(reward, pictures):
    pixels = reward.prepare(pictures[1]).requires_grad_()
    reward.outputs(PROMPTS[:1], [pixels])[0, 0].backward()
    assert (pixels.grad.abs().amax(dim=(1, 2)) > 0).all()


def test_bfloat16_gives_float32_scores_near_by(weights, base, pictures, judged):
    rough = open_hpsv3(weights, base, dtype=torch.bfloat16)
    assert rough.network.qwen.dtype == torch.bfloat16
    assert rough.network.head[0].weight.dtype == torch.float32
    values = rough.judge(PROMPTS, pictures)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, judged, atol=0.1, rtol=0)


def test_a_trainers_autocast_changes_nothing(reward, pictures):
    pixels = [reward.prepare(pictures[1])]
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        inside = reward.outputs(PROMPTS[:1], pixels)
    with torch.no_grad():
        assert inside.tolist() == reward.outputs(PROMPTS[:1], pixels).tolist()


def test_the_score_is_the_mean_and_what_cannot_be_scored_is_nan_with_its_reason(reward, pictures, judged):
    file = io.BytesIO()
    random_picture(200, 200).save(file, "PNG")
    truncated = Image.open(io.BytesIO(file.getvalue()[:200]))
    prompts = [PROMPTS[0], "a", "a <|Reward|>", "a <|im_end|>", "b"]
    media = [pictures[0], truncated, pictures[1], pictures[1], Image.new("RGB", (1000, 2))]
    failures: list[Failure] = []
    scores = reward.score(prompts, media, failures)
    assert np.isnan(scores).tolist() == [False, True, True, True, True]
    assert scores[0] == pytest.approx(judged[0, 0], abs=1e-5)
    assert [failure.index for failure in failures] == [1, 2, 3, 4]
    assert "truncated" in failures[0].reason
    assert failures[1].reason == "the prompt holds <|Reward|>, which Qwen2-VL reads as a mark of its own"
    assert failures[3].reason == "1000 x 2 pixels: one side is more than 200 times the other"
    with pytest.raises(ValueError, match=r"holds <\|im_end\|>"):
        reward.outputs(["a <|im_end|>"], [torch.zeros(3, 28, 28)])


def test_nothing_gives_nothing_and_pairs_are_required(reward):
    assert reward.score([], []).shape == (0,)
    with pytest.raises(ValueError, match="expected one prompt for each"):
        reward.score(["a"], [])


def test_at_full_size_every_official_key_has_its_place():
    config = Qwen2VLConfig.from_dict(hub_config(FULL))
    config.text_config.vocab_size = FULL["text"]["vocab"]
    with init_empty_weights(include_buffers=False):
        network = Hpsv3Network(config)
    ours = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    renamed = {official_name(name): shape for name, shape in ours.items()}
    official = official_shapes(FULL)
    assert len(renamed) == len(ours)  # no two become one
    assert len(official) == 736
    assert renamed == {key: shape for key, shape in official.items() if key != "lm_head.weight"}
    built = build_hpsv3({key: torch.empty(shape, device="meta") for key, shape in official.items()}, config)
    # Qwen2-VL-7B has 8,291,375,616 parameters with two tables of 152,064 tokens; one is left, cut to 151,658 rows.
    head = 3584 * 1024 + 1024 + 1024 * 16 + 16 + 16 * 2 + 2
    expected = 8_291_375_616 - (2 * 152_064 - 151_658) * 3584 + head
    assert sum(parameter.numel() for parameter in built.parameters()) == expected


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda state: state.pop("rm_head.5.bias"), r"1 are missing and 0 unexpected \(rm_head.5.bias\)"),
        (lambda state: state.update({"model.other": torch.ones(1)}), r"0 are missing and 1 unexpected \(model.other\)"),
        (lambda state: state.pop("model.embed_tokens.weight"), "has no model.embed_tokens.weight; is it HPSv3.safe"),
        (lambda state: state.update({"visual.merger.ln_q.bias": torch.ones(7)}), "do not fit together.*ln_q.bias"),
        (
            lambda state: state.update({"model.embed_tokens.weight": torch.ones(99, 32)}),
            "has 263 tokens with .* and HPSv3",
        ),
    ],
)
def test_a_file_that_is_not_hpsv3_is_refused(state, base, tmp_path, damage, message):
    state = dict(state)
    damage(state)
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=message) as error:
        open_hpsv3(tmp_path / "other.safetensors", base)
    assert "\n" not in str(error.value)


def test_a_base_that_is_not_qwen2_vl_is_refused(weights, base, tmp_path):
    with pytest.raises(UserError, match=r"has \d+ tokens with .* and HPSv3 263; give the folder or hub id of Qwen"):
        open_hpsv3(weights, tmp_path)
    for file in base.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({**hub_config(TINY), "model_type": "qwen2_5_vl"}))
    with pytest.raises(UserError, match="configuration of a qwen2_5_vl, not of a qwen2_vl; give the folder or hub id"):
        open_hpsv3(weights, tmp_path)
    with pytest.raises(UserError, match=r"nowhere.safetensors does not exist; give the path of HPSv3.safetensors"):
        open_hpsv3("nowhere.safetensors", base)


@pytest.mark.weights
def test_the_published_order():
    """A folder of pictures `<name>.png` with prompts `<name>.txt` and the reference's scores `<name>.score`."""
    weights, base, folder = (os.environ.get(f"PALATE_HPSV3{part}") for part in ("", "_BASE", "_PICTURES"))
    if not weights or not folder:
        pytest.skip("PALATE_HPSV3 names no HPSv3.safetensors or PALATE_HPSV3_PICTURES no folder")
    reward = open_hpsv3(weights, base, "cuda", torch.bfloat16)
    pictures = sorted(Path(folder).glob("*.png"))
    scores = reward.score([p.with_suffix(".txt").read_text() for p in pictures], [Image.open(p) for p in pictures])
    expected = [float(p.with_suffix(".score").read_text()) for p in pictures]
    assert scores.tolist() == pytest.approx(expected, abs=0.1)
