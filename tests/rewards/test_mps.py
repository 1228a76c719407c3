"""MPS against its formulas, computed pair by pair, head by head and place by place from tensors under official keys."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from palate.errors import UserError
from palate.rewards.clip_keys import Heads
from palate.rewards.clip_tower import ClipTower
from palate.rewards.mps import MPS, kept_tokens, open_mps
from palate.rewards.mps_cross import CrossModel
from palate.rewards.mps_keys import split_mps
from palate.rewards.reward import Failure, PixelReward

HEADS = Heads(text=4, vision=2)
CONDITION = (  # of the authors' README
    "light, color, clarity, tone, style, ambiance, artistry, shape, face, hair, hands, limbs, structure, instance, "
    "texture, quantity, attributes, position, number, location, word, things."
)
PROMPTS = ["a red cube", "soft light on a face, warm color, two hands", "a red cube", "word " * 100]
WIDTH, QUERIES, KEYS, HIDDEN = 16, 12, 6, 40  # two heads of 6: not the width, as it happens to be in the official file


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


PICTURES = [picture(40, 60), picture(28, 28, 1), picture(59, 28, 2), picture(31, 90, 3)]


def cross_shapes(width: int, queries: int, keys: int, hidden: int, layers: int) -> dict[str, tuple[int, ...]]:
    """As the official modules register them."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(layers):
        across, within = (f"cross_model.layers.{layer}.{block}.fn." for block in (0, 1))
        shapes |= {
            f"{across}norm.weight": (width,),
            f"{across}norm.bias": (width,),
            f"{across}to_q.weight": (queries, width),
            f"{across}to_kv.weight": (2 * keys, width),
            f"{across}to_out.weight": (width, queries),
            f"{across}ff.0.weight": (2 * hidden, width),
            f"{across}ff.2.weight": (width, hidden),
            f"{within}norm.weight": (width,),
            f"{within}norm.bias": (width,),
            f"{within}rotary_emb.inv_freq": (keys // 2,),
            f"{within}fused_attn_ff_proj.weight": (queries + 2 * keys + 2 * hidden, width),
            f"{within}attn_out.weight": (width, queries),
            f"{within}ff_out.1.weight": (width, hidden),
        }
    return shapes


@pytest.fixture(scope="module")
def clip(make_transformers) -> CLIPModel:
    model = make_transformers("gelu")
    # Words that differ, and lie near one line: or each would be near enough to one of the condition's, and be kept.
    model.text_model.embeddings.token_embedding.weight.data *= 10
    model.text_model.final_layer_norm.weight.data[1:] *= 0.05
    model.text_model.final_layer_norm.bias.data *= 0.05
    return model


@pytest.fixture(scope="module")
def state(clip) -> dict[str, torch.Tensor]:
    """A tiny model.safetensors of RE-N-Y/mpsv1: every key has `mps.` before it."""
    generator = torch.Generator().manual_seed(7)
    found = {f"mps.model.{name}": tensor.clone() for name, tensor in clip.state_dict().items()}
    for name, shape in cross_shapes(WIDTH, QUERIES, KEYS, HIDDEN, layers=2).items():
        tensor = torch.randn(shape, generator=generator) / math.sqrt(shape[-1])
        if name.endswith("norm.weight"):
            tensor = 1 + tensor
        if name.endswith("norm.bias"):
            tensor = torch.zeros(shape)
        if name.endswith("inv_freq"):
            tensor = 1 / 10000 ** (torch.arange(0, KEYS, 2) / KEYS)
        found[f"mps.{name}"] = tensor
    return found


@pytest.fixture(scope="module")
def file(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("mps") / "model.safetensors"
    save_file(state, path)
    return path


@pytest.fixture(scope="module")
def reward(file) -> MPS:
    return open_mps(file, heads=HEADS)


def attention(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return torch.softmax(keys @ query / math.sqrt(len(query)), dim=0) @ values


def turned(vector: torch.Tensor, place: int, frequencies: torch.Tensor) -> torch.Tensor:
    half = len(vector) // 2
    pairs = torch.complex(vector[:half], vector[half:]) * torch.exp(1j * place * frequencies)
    return torch.cat([pairs.real, pairs.imag])


def block(weights, prefix, tokens, context=None):
    """One token at a time; with no context, of itself and with rotary angles."""
    w = {key.removeprefix(prefix): value.double() for key, value in weights.items() if key.startswith(prefix)}
    mean, variance = tokens.mean(-1, keepdim=True), tokens.var(-1, keepdim=True, correction=0)
    normed = (tokens - mean) / torch.sqrt(variance + 1e-5) * w["norm.weight"] + w["norm.bias"]
    if context is None:
        fused = normed @ w["fused_attn_ff_proj.weight"].T
        queries, keys, values, wide = fused.split([QUERIES, KEYS, KEYS, 2 * HIDDEN], dim=-1)
        f = w["rotary_emb.inv_freq"]
        keys = torch.stack([turned(key, place, f) for place, key in enumerate(keys)])
        out, narrow = w["attn_out.weight"], w["ff_out.1.weight"]
    else:
        queries, wide = normed @ w["to_q.weight"].T, normed @ w["ff.0.weight"].T
        keys, values = (context @ w["to_kv.weight"].T).split([KEYS, KEYS], dim=-1)
        out, narrow = w["to_out.weight"], w["ff.2.weight"]
    rows = []
    for place, token in enumerate(tokens):
        heads = queries[place].split(KEYS)
        if context is None:
            heads = [turned(head, place, f) for head in heads]
        read = torch.cat([attention(head, keys, values) for head in heads])
        value, gate = wide[place].split(HIDDEN)
        rows.append(token + out @ read + narrow @ (gate * torch.sigmoid(gate) * value))
    return torch.stack(rows)


@torch.no_grad()
def by_hand(clip, state, tokenizer, prompt, one, threshold) -> tuple[float, int]:
    """The score of one pair, and how many of the prompt's tokens are read."""

    def text(prompt):
        ids = tokenizer(prompt, padding="max_length", truncation=True, max_length=77, return_tensors="pt").input_ids
        tokens = clip.text_projection(clip.text_model(input_ids=ids).last_hidden_state)[0].double()
        return tokens, tokens[ids[0].argmax()]  # the end token has the largest id

    processor = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    pixels = processor(one, return_tensors="pt")["pixel_values"]
    images = clip.visual_projection(clip.vision_model(pixel_values=pixels).last_hidden_state)[0].double()
    texts, pooled = text(prompt)
    condition, _ = text(CONDITION)
    similarity = torch.stack([max(token @ other for other in condition) for token in texts])
    kept = texts[similarity / similarity.max() > threshold]
    for layer in range(2):
        images = block(state, f"mps.cross_model.layers.{layer}.0.fn.", images, kept)
        images = block(state, f"mps.cross_model.layers.{layer}.1.fn.", images)
    cosine = pooled @ images[0] / pooled.norm() / images[0].norm()
    return float(clip.logit_scale.exp() * cosine), len(kept)


@pytest.mark.parametrize("threshold", [0.3, 0.8])
def test_scores_are_the_formulas_pair_by_pair(clip, state, tokenizer, file, threshold):
    reward = open_mps(file, heads=HEADS, threshold=threshold)
    wanted, read = zip(
        *(by_hand(clip, state, tokenizer, *pair, threshold) for pair in zip(PROMPTS, PICTURES, strict=True)),
        strict=True,
    )
    scores = reward.score(PROMPTS, PICTURES)
    assert scores.dtype == np.float32
    assert all(0 < count < 77 for count in read), read  # the mask is neither empty nor idle
    np.testing.assert_allclose(scores / 100, np.array(wanted) / 100, rtol=0, atol=1e-6)
    assert np.ptp(scores) > 1


def test_the_threshold_decides_and_is_on_record(file, reward):
    assert (reward.threshold, reward.name) == (0.3, "mps")
    other = open_mps(file, heads=HEADS, threshold=0.8)
    assert other.threshold == 0.8
    assert np.abs(other.score(PROMPTS, PICTURES) - reward.score(PROMPTS, PICTURES)).max() > 0.01
    with pytest.raises(UserError, match="threshold is 1; it is below 1"):
        open_mps(file, heads=HEADS, threshold=1)


def test_the_condition_is_the_authors_to_the_last_sign(reward):
    tokens = reward.tower.text_tokens(reward.tower.prompts.read([CONDITION]))[0]
    assert torch.equal(reward.condition, tokens)


def test_a_token_is_kept_above_the_threshold_and_not_at_it():
    condition = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    texts = torch.tensor([[[4.0, 0.0], [0.0, 1.0], [1.0, 0.4], [0.5, 0.75], [-3.0, -3.0]]])
    # The nearest of the condition: 4 (largest), 2, 1, 1.5, -3; divided by 4: 1, 0.5, 0.25, 0.375, -0.75.
    assert kept_tokens(texts, condition, 0.25).tolist() == [[True, True, False, True, False]]
    assert kept_tokens(texts, condition, 0.24999).tolist() == [[True, True, True, True, False]]
    assert kept_tokens(texts, condition, 0.5).tolist() == [[True, False, False, False, False]]
    assert kept_tokens(texts, condition, 0.99999).any(dim=-1).all()


def test_a_score_does_not_depend_on_its_company_and_the_batch_maximum_would(reward):
    together = reward.score(PROMPTS, PICTURES)
    alone = np.concatenate([reward.score([p], [one]) for p, one in zip(PROMPTS, PICTURES, strict=True)])
    np.testing.assert_allclose(together / 100, alone / 100, rtol=0, atol=1e-6)

    texts = reward.tower.text_tokens(reward.tower.prompts.read(PROMPTS))
    keep = kept_tokens(texts, reward.condition, reward.threshold)
    similarity = torch.einsum("ntd,sd->nts", texts, reward.condition).amax(dim=-1)
    of_the_batch = similarity / similarity.max() > reward.threshold
    differ = (keep != of_the_batch).any(dim=-1)
    assert differ.any()
    pixels = torch.stack([reward.prepare(one) for one in PICTURES])
    images = reward.tower.image_tokens(pixels)
    read = [reward.cross(images, texts, mask) for mask in (keep, of_the_batch)]
    assert (read[0] - read[1]).abs().amax(dim=-1)[differ].min() > 1e-3


def test_gradients_reach_the_pixels(reward):
    images = torch.rand(2, 3, 40, 33, generator=torch.Generator().manual_seed(0)).requires_grad_()
    reward.score_pixels(["a", "b"], reward.prepare_tensor(images)).sum().backward()
    assert (images.grad.abs().amax(dim=(1, 2, 3)) > 0).all()
    assert not any(parameter.requires_grad for parameter in reward.cross.parameters())
    at = (0, 1, 20, 16)
    wanted = images.grad[at].item()
    ends = []
    for step in (1e-2, -1e-2):
        moved = images.detach().clone()
        moved[at] += step
        ends.append(reward.score_pixels(["a", "b"], reward.prepare_tensor(moved)).sum().item())
    assert (ends[0] - ends[1]) / 2e-2 == pytest.approx(wanted, rel=0.05, abs=0.02)


def test_it_keeps_the_contract(reward):
    assert isinstance(reward, PixelReward)
    assert (reward.modality, reward.differentiable) == ("image", True)
    with pytest.raises(ValueError, match="got 1 prompts and 2 media"):
        reward.score_pixels(["a"], torch.zeros(2, 3, 28, 28))
    failures: list[Failure] = []
    damaged = Image.new("F", (30, 30))
    scores = reward.score(["a", "a"], [damaged, PICTURES[0]], failures)
    assert np.isnan(scores).tolist() == [True, False]
    assert [failure.index for failure in failures] == [0]


def test_bfloat16_and_a_surrounding_autocast(file, reward):
    pixels = torch.stack([reward.prepare(one) for one in PICTURES])
    exact = reward.score_pixels(PROMPTS, pixels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(reward.score_pixels(PROMPTS, pixels), exact)
    rough = open_mps(file, heads=HEADS, dtype=torch.bfloat16)
    assert rough.cross.layers[0].across.query.weight.dtype == torch.bfloat16
    assert torch.equal(rough.cross.frequencies, reward.cross.frequencies)
    assert rough.condition.dtype == torch.float32
    values = rough.score_pixels(PROMPTS, pixels)
    assert values.dtype == torch.float32
    assert not torch.equal(values, exact)


def test_the_released_layout_without_the_ports_prefix_opens_too(state, reward, tmp_path):
    released = {key.removeprefix("mps."): tensor for key, tensor in state.items()}
    released["model.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    torch.save(released, tmp_path / "mps.pth")
    other = open_mps(tmp_path / "mps.pth", heads=HEADS)
    assert np.array_equal(other.score(PROMPTS, PICTURES), reward.score(PROMPTS, PICTURES))


def test_the_full_size_file_maps_key_by_key():
    size = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    with torch.device("meta"):
        official = CLIPModel(
            CLIPConfig(
                text_config=dict(zip(size, (1024, 4096, 24, 16), strict=True)) | {"hidden_act": "gelu"},
                vision_config=dict(zip(size, (1280, 5120, 32, 16), strict=True))
                | {"hidden_act": "gelu", "patch_size": 14},
                projection_dim=1024,
            )
        )
        state = {f"mps.model.{key}": tensor for key, tensor in official.state_dict().items()}
        shapes = cross_shapes(width=1024, queries=1024, keys=64, hidden=4096, layers=4)
        state |= {f"mps.{name}": torch.empty(shape) for name, shape in shapes.items()}
    # The port is listed with 4.42 GB: these tensors in float32.
    assert round(4 * sum(tensor.numel() for tensor in state.values()) / 1e9, 2) == 4.42
    clip, cross = split_mps(state)
    tower = ClipTower.from_state(clip, Heads(16, 16), "gelu", device="meta")
    assert sum(parameter.numel() for parameter in tower.model.parameters()) == 986_109_441
    model = CrossModel.from_state(cross, device="meta")
    first = model.layers[0].within
    assert (len(model.layers), first.heads, first.head_width) == (4, 16, 64)
    assert first.widen.weight.shape == (8192, 1024)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: {"logit_scale": state["mps.model.logit_scale"]}, "has no cross_model.layers.0.0.fn.norm.weight"),
        (lambda state: state | {"mps.head.weight": torch.zeros(1)}, "mps.head.weight is no key of MPS"),
        (
            lambda state: state | {"mps.cross_model.layers.0.0.fn.ff.1.weight": torch.zeros(1)},
            r"cross_model.layers.0.0.fn.ff.1.weight is no key of MPS",
        ),
        (
            lambda state: {k: v for k, v in state.items() if not k.endswith("layers.1.1.fn.attn_out.weight")},
            "lacks the tensor for layers.1.within.attended.weight",
        ),
        (
            lambda state: {k: v for k, v in state.items() if not k.endswith("layers.1.0.fn.to_q.weight")},
            "do not make MPS's cross model .*layers.1.across.query.weight",
        ),
        (
            lambda state: {k: v for k, v in state.items() if k != "mps.model.logit_scale"},
            "do not make a CLIP model .*logit_scale",
        ),
    ],
)
def test_a_file_of_another_model_is_told(state, tmp_path, change, message):
    save_file(change(state), tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=message):
        open_mps(tmp_path, heads=HEADS)
