"""VQAScore against a computation written here with transformers' whole models, over the official checkpoint's keys."""

import io
import json
import logging
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
from torchvision import transforms
from transformers import CLIPVisionConfig, CLIPVisionModel, T5Config, T5ForConditionalGeneration, T5Tokenizer

from palate.errors import UserError
from palate.rewards.clip_t5_model import VISION, build_clip_t5
from palate.rewards.registry import open_reward
from palate.rewards.reward import Failure, PixelReward
from palate.rewards.vqascore import VqaScore, open_vqascore, pad_to_square

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. USER: "
)
PROMPTS = ["a red circle", "two big blue squares on the left of three small red circles", "a"]
QUESTION = '\nDoes this figure show "{}"? Please answer yes or no. ASSISTANT: '
WORDS = " ".join([SYSTEM, QUESTION, "Yes", *PROMPTS]).split()
PIECES = ["<pad>", "</s>", "<unk>", "▁", *dict.fromkeys(f"▁{word}" for word in WORDS), *map(chr, range(33, 127))]
VOCABULARY = len(PIECES) + 100
TINY_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4}
TINY_CLIP = {"hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 1}
XXL = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_decoder_layers": 24, "num_heads": 64}


def t5_config(sizes: dict, vocabulary: int) -> dict:
    """config.json of the official checkpoints."""
    names = {"model_type": "clip_t5", "architectures": ["CLIPT5ForConditionalGeneration"], "torch_dtype": "bfloat16"}
    multimodal = {"mm_hidden_size": 1024, "mm_projector_type": "mlp2x_gelu", "mm_vision_tower": "openai/clip-vit-large"}
    form = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "decoder_start_token_id": 0}
    return {**names, **multimodal, **form, **sizes, "vocab_size": vocabulary}


def clip_config(sizes: dict, image: int, patch: int) -> CLIPVisionConfig:
    return CLIPVisionConfig(**sizes, image_size=image, patch_size=patch, hidden_act="quick_gelu")


def tiny_parts() -> tuple[CLIPVisionModel, torch.nn.Sequential, T5ForConditionalGeneration]:
    """Random networks, T5's table padded by 28 rows like the official one."""
    values = t5_config(TINY_T5, VOCABULARY + 28)
    values.pop("model_type")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vision = CLIPVisionModel(clip_config(TINY_CLIP, 28, 7))
        projector = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.GELU(), torch.nn.Linear(32, 32))
        t5 = T5ForConditionalGeneration(T5Config.from_dict(values))
        t5.lm_head.weight = torch.nn.Parameter(torch.randn(VOCABULARY + 28, 32) / 3)  # tied by transformers 5
        for parameter in [*vision.parameters(), *projector.parameters(), *t5.encoder.parameters()]:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return vision.eval(), projector, t5.eval()


def official(vision: CLIPVisionModel, projector: torch.nn.Module, t5: T5ForConditionalGeneration) -> dict[str, Tensor]:
    """The networks' tensors under the official checkpoint's names."""
    tower = getattr(vision, "vision_model", vision)
    state = {f"{VISION}{name}": tensor for name, tensor in tower.state_dict().items()}
    state |= {f"mm_projector.{name}": tensor for name, tensor in projector.state_dict().items()}
    state |= t5.state_dict()
    state["embed_tokens.weight"] = state["shared.weight"]
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def reference(parts, tokenizer: T5Tokenizer, prompts: list[str], pixels: Tensor) -> Tensor:
    """Row by row, with transformers' own loss."""
    vision, projector, t5 = parts
    scores = []
    for prompt, image in zip(prompts, pixels, strict=True):
        hidden = vision(pixel_values=image[None], output_hidden_states=True).hidden_states[-2]
        seen = projector(hidden[:, 1:])
        before = tokenizer(SYSTEM, return_tensors="pt").input_ids
        after = tokenizer(QUESTION.format(prompt), return_tensors="pt").input_ids
        labels = tokenizer("Yes", return_tensors="pt").input_ids
        assert labels.shape == (1, 2)
        states = torch.cat([t5.shared(before), seen, t5.shared(after)], dim=1)
        logits = t5(inputs_embeds=states, labels=labels).logits[0, :, :VOCABULARY]
        scores.append(torch.exp(-F.cross_entropy(logits, labels[0])))
    return torch.stack(scores)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("t5")
    scores = [-2.0 if len(piece) > 1 else -9.0 for piece in PIECES]
    extra = [(f"<extra_id_{n}>", 0.0) for n in reversed(range(100))]
    T5Tokenizer(vocab=[*zip(PIECES, scores, strict=True), *extra]).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def parts():
    return tiny_parts()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, parts) -> Path:
    """As the official one: pickled shards with an index."""
    path = tmp_path_factory.mktemp("clip-flant5")
    (path / "config.json").write_text(json.dumps(t5_config(TINY_T5, VOCABULARY + 28)))
    state, where = official(*parts), {}
    names = list(state)
    for n, share in enumerate((names[::2], names[1::2]), start=1):
        file = f"pytorch_model-0000{n}-of-00002.bin"
        torch.save({name: state[name] for name in share}, path / file)
        where |= dict.fromkeys(share, file)
    (path / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return path


@pytest.fixture(scope="module")
def reward(folder, tokenizer) -> VqaScore:
    return open_vqascore(folder, tokenizer=tokenizer)


@pytest.mark.parametrize("name", ["vqascore", "vqascore_xl"])
def test_it_is_called_as_the_zoo_calls_it(folder, tokenizer, name):
    assert open_reward(name, weights=folder, tokenizer=tokenizer, dtype=torch.float32).name == name


def random_pixels(n: int) -> Tensor:
    return torch.randn(n, 3, 28, 28, generator=torch.Generator().manual_seed(1))


def random_picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, len(mode)), dtype=np.uint8)
    return Image.fromarray(values, mode)


def test_the_contract(reward):
    assert isinstance(reward, PixelReward)
    assert (reward.name, reward.modality, reward.differentiable, reward.size) == ("vqascore", "image", True, 28)
    networks = (reward.network.vision, reward.network.projector, reward.network.t5)
    assert not any(parameter.requires_grad for network in networks for parameter in network.parameters())


def test_scores_are_the_references(reward, parts, tokenizer):
    pixels = random_pixels(3)
    expected = reference(parts, T5Tokenizer.from_pretrained(tokenizer), PROMPTS, pixels)
    assert expected.log().std() > 0.05  # else the comparison would say little
    scores = reward.score_pixels(PROMPTS, pixels)
    assert (scores.shape, scores.dtype) == ((3,), torch.float32)
    torch.testing.assert_close(scores, expected, atol=0, rtol=1e-5)
    torch.testing.assert_close(scores.log(), expected.log(), atol=1e-5, rtol=0)


def test_gradients_reach_the_pixels_and_are_the_references(reward, parts, tokenizer):
    ours, theirs = (random_pixels(3).requires_grad_() for _ in range(2))
    reward.score_pixels(PROMPTS, ours).log().sum().backward()
    reference(parts, T5Tokenizer.from_pretrained(tokenizer), PROMPTS, theirs).log().sum().backward()
    assert theirs.grad.flatten(1).norm(dim=1).min() > 1e-4
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-3)


def test_a_score_does_not_depend_on_the_batch(reward):
    pixels = random_pixels(3)
    together = reward.score_pixels(PROMPTS, pixels)
    alone = torch.cat([reward.score_pixels([PROMPTS[i]], pixels[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together.log(), alone.log(), atol=1e-5, rtol=0)


def test_prompt_and_picture_both_count(reward):
    pixels = random_pixels(2)
    logs = reward.score_pixels([PROMPTS[0], PROMPTS[0], PROMPTS[1]], pixels[[0, 1, 0]]).log()
    assert (logs[0] - logs[1:]).abs().min() > 1e-3


def test_bfloat16_gives_float32_scores_near_by(folder, tokenizer, reward):
    rough = open_vqascore(folder, tokenizer=tokenizer, dtype=torch.bfloat16)
    assert (rough.network.t5.dtype, rough.network.head.dtype) == (torch.bfloat16, torch.float32)
    scores = rough.score_pixels(PROMPTS, random_pixels(3))
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores.log(), reward.score_pixels(PROMPTS, random_pixels(3)).log(), atol=0.1, rtol=0)
    with pytest.raises(UserError, match="vqascore cannot run in float16"):
        open_vqascore(folder, tokenizer=tokenizer, dtype=torch.float16)


def test_a_trainers_autocast_changes_nothing(reward):
    with torch.autocast("cpu", torch.bfloat16):
        inside = reward.score_pixels(PROMPTS, random_pixels(3))
    assert inside.tolist() == reward.score_pixels(PROMPTS, random_pixels(3)).tolist()


def test_long_prompts_are_cut_and_the_user_is_told_once(reward, caplog):
    room = 2048 - len(reward.prompts.before) - 1
    asked = len(reward.prompts.read(["big red"])[0])  # a word more is a token more
    exact = " ".join(["big", *["red"] * (room - asked + 1)])
    whole = reward.prompts.read([exact])[0]
    assert (len(whole), whole[-1], reward.prompts.cut) == (room, 1, 0)
    with caplog.at_level(logging.WARNING):
        longer, _ = reward.prompts.read([f"{exact} red", f"{exact} red red"])
        reward.prompts.read([f"{exact} red"])
    assert (len(longer), longer[-1], reward.prompts.cut) == (room, whole[-2], 3)  # the end token is lost
    assert [record.message for record in caplog.records] == [
        "2 of 2 prompts are longer than the 2048 tokens that vqascore reads; their ends are not judged (said once)"
    ]


@pytest.mark.parametrize(("width", "height", "left", "top"), [(7, 4, 0, 1), (3, 8, 2, 0), (5, 5, 0, 0)])
def test_pictures_are_padded_with_clips_mean_colour(width, height, left, top):
    picture = random_picture(width, height)
    square = np.array(pad_to_square(picture))
    expected = np.full((max(width, height),) * 2 + (3,), (122, 116, 104), dtype=np.uint8)
    expected[top : top + height, left : left + width] = np.array(picture)
    assert (square == expected).all()


def test_pictures_are_prepared_as_the_reference_prepares_them(reward):
    official_transform = transforms.Compose(
        [
            transforms.Resize(28, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(28),
            transforms.ToTensor(),
            transforms.Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        ]
    )
    picture = random_picture(300, 211)
    square = Image.new("RGB", (300, 300), (122, 116, 104))
    square.paste(picture, (0, 44))
    torch.testing.assert_close(reward.prepare(picture), official_transform(square), atol=1e-6, rtol=0)


def test_a_broken_picture_is_nan_with_its_reason(reward):
    whole = random_picture(64, 48)
    file = io.BytesIO()
    random_picture(200, 200).save(file, "PNG")
    truncated = Image.open(io.BytesIO(file.getvalue()[:3000]))
    failures: list[Failure] = []
    media = [whole, truncated, random_picture(64, 48, "RGBA"), Image.new("L", (20000, 1))]
    scores = reward.score(["a red circle"] * 4, media, failures)
    assert scores.dtype == np.float32
    assert np.isnan(scores).tolist() == [False, True, False, True]
    assert [failure.index for failure in failures] == [1, 3]
    assert "truncated" in failures[0].reason
    assert failures[1].reason == "20000 x 1 pixels: no side may be longer than 16384"
    with torch.no_grad():
        direct = reward.score_pixels(["a red circle"], reward.prepare(whole)[None])
    assert math.log(scores[0]) == pytest.approx(direct.log().item(), abs=1e-5)


def test_nothing_gives_nothing_and_pairs_are_required(reward):
    assert reward.score([], []).shape == (0,)
    assert reward.score_pixels([], torch.empty(0, 3, 28, 28)).shape == (0,)
    with pytest.raises(ValueError, match="expected one prompt for each"):
        reward.score_pixels(["a"], random_pixels(2))


def test_a_checkpoint_without_the_vision_tower_takes_openais(parts, tokenizer, reward, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(t5_config(TINY_T5, VOCABULARY + 28)))
    rest = {name: tensor for name, tensor in official(*parts).items() if not name.startswith("vision_tower.")}
    save_file(rest, tmp_path / "model.safetensors")
    parts[0].save_pretrained(tmp_path / "clip")
    other = open_vqascore(tmp_path, tmp_path / "clip", tokenizer)
    scores = other.score_pixels(PROMPTS, random_pixels(3))
    torch.testing.assert_close(scores, reward.score_pixels(PROMPTS, random_pixels(3)), atol=0, rtol=1e-6)
    with pytest.raises(UserError, match="cannot be loaded as CLIP"):
        open_vqascore(tmp_path, tmp_path / "nowhere", tokenizer)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda state: state.pop("lm_head.weight"), "lacks lm_head.weight; is it a CLIP-FlanT5"),
        (lambda state: state.pop("encoder.final_layer_norm.weight"), "do not make a CLIP-FlanT5.*final_layer_norm"),
        (lambda state: state.update({"decoder.other": torch.ones(1)}), r"do not make a CLIP-FlanT5.*decoder\.other"),
        (lambda state: state.update({"mm_projector.2.bias": torch.ones(7)}), "do not make a CLIP-FlanT5.*2.bias"),
        (lambda state: state.update({"shared.weight": torch.ones(9, 32)}), "has .* tokens and the model 9; give the"),
    ],
)
def test_a_checkpoint_that_is_not_clip_flant5_is_refused(parts, tokenizer, tmp_path, damage, message):
    state = official(*parts)
    damage(state)
    (tmp_path / "config.json").write_text(json.dumps(t5_config(TINY_T5, VOCABULARY + 28)))
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=message) as error:
        open_vqascore(tmp_path, tokenizer=tokenizer)
    assert "\n" not in str(error.value)


def test_another_configuration_or_size_is_refused(folder, tokenizer, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match="not that of a clip_t5; give the folder of zhiqiulin"):
        open_vqascore(tmp_path, tokenizer=tokenizer)
    with pytest.raises(UserError, match="vqascore has no size 'small'; it is xl or xxl"):
        open_vqascore(folder, size="small")  # type: ignore[arg-type]


def test_at_full_size_every_official_key_has_its_place():
    """XXL with ViT-L/14-336, by the rule of T5's and CLIP's own architectures."""
    values = t5_config(XXL, 32128)
    config = T5Config.from_dict({key: value for key, value in values.items() if key != "model_type"})
    large = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    with init_empty_weights(include_buffers=False):
        vision = CLIPVisionModel(clip_config(large, 336, 14))
        projector = torch.nn.Sequential(torch.nn.Linear(1024, 4096), torch.nn.GELU(), torch.nn.Linear(4096, 4096))
        t5 = T5ForConditionalGeneration(config)
    state = {name: torch.empty(tensor.shape, device="meta") for name, tensor in official(vision, projector, t5).items()}
    assert state[f"{VISION}embeddings.position_embedding.weight"].shape == (577, 1024)
    network = build_clip_t5(state, config, vocabulary=32100)
    assert network.head.shape == (32100, 4096)
    assert len(network.vision.encoder.layers) == 23
    # FLAN-T5-XXL has 11,135,332,352 parameters: one of its two tables is the head, two copies of the other are counted
    table = 32128 * 4096
    assert sum(parameter.numel() for parameter in network.t5.parameters()) == 11_135_332_352 - table + 2 * table


@pytest.mark.weights
def test_the_reference_scores():
    """A folder of pictures `<name>.png` with prompts `<name>.txt` and t2v_metrics' scores `<name>.score`."""
    weights, folder = os.environ.get("PALATE_VQASCORE"), os.environ.get("PALATE_VQASCORE_PICTURES")
    if not weights or not folder:
        pytest.skip("PALATE_VQASCORE names no CLIP-FlanT5 or PALATE_VQASCORE_PICTURES no folder")
    reward = open_vqascore(weights, tokenizer=os.environ.get("PALATE_T5"), device="cuda", dtype=torch.bfloat16)
    pictures = sorted(Path(folder).glob("*.png"))
    scores = reward.score([p.with_suffix(".txt").read_text() for p in pictures], [Image.open(p) for p in pictures])
    expected = [float(p.with_suffix(".score").read_text()) for p in pictures]
    assert scores.tolist() == pytest.approx(expected, abs=0.02)
