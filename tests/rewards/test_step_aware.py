import math

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel

from palate.errors import UserError
from palate.rewards.clip_keys import Heads
from palate.rewards.pickscore import open_pickscore
from palate.rewards.step_aware import FILE, open_step_aware, save_step_aware
from palate.rewards.step_aware_keys import StepAwareState, join_step_aware, split_step_aware
from palate.rewards.step_aware_tower import StepAwareClip, TimeModulation, sinusoids

PROMPTS = ["a red cube", "a café's roof", "a red cube", ""]
TIMES = torch.tensor([0, 251, 701, 951])
HEADS = Heads(text=4, vision=2)


def pixels(n: int = 4) -> torch.Tensor:
    return torch.randn(n, 3, 28, 28, generator=torch.Generator().manual_seed(1))


def trained(folder):
    """A judge to which time matters."""
    judge = open_step_aware(folder)
    generator = torch.Generator().manual_seed(2)
    for parameter in judge.network.time.parameters():
        parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return judge


def published(judge) -> dict[str, torch.Tensor]:
    """Its tensors as in the released files: written out here by hand."""
    time = judge.network.time
    layers = {
        "t_embedder.mlp.0": time.widen,
        "t_embedder.mlp.2": time.vector,
        "vision_model.adaLN_modulation.1": time.pooled,
        "vision_model.encoder.layers.0.adaLN_modulation.1": time.blocks[0],
        "vision_model.encoder.layers.1.adaLN_modulation.1": time.blocks[1],
    }
    state = {f"model.{name}": tensor.clone() for name, tensor in judge.tower.model.state_dict().items()}
    for name, layer in layers.items():
        state |= {f"model.{name}.weight": layer.weight.clone(), f"model.{name}.bias": layer.bias.clone()}
    return state | {"model.vision_model.embeddings.position_ids": torch.arange(5)[None]}


def by_hand(judge, prompts, pictures, times) -> torch.Tensor:
    """Scores in float64, from the tensors of the state dict and the formulas of the paper's appendix alone."""
    w = {name.removeprefix("model."): tensor.double() for name, tensor in published(judge).items()}

    def linear(name, x):
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", torch.zeros(1, dtype=torch.float64))

    def norm(name, x):
        centred = x - x.mean(-1, keepdim=True)
        return (
            centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]
        )

    frequencies = torch.tensor([10000 ** (-i / 128) for i in range(128)], dtype=torch.float64)
    angles = times.double()[:, None] * frequencies
    time = linear("t_embedder.mlp.0", torch.cat([angles.cos(), angles.sin()], 1))
    time = linear("t_embedder.mlp.2", time * time.sigmoid())
    time = time * time.sigmoid()
    patches = pictures.double().unfold(2, 14, 14).unfold(3, 14, 14).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
    x = patches @ w["vision_model.embeddings.patch_embedding.weight"].flatten(1).T
    x = torch.cat([w["vision_model.embeddings.class_embedding"].expand(len(x), 1, -1), x], 1)
    x = norm("vision_model.pre_layrnorm", x + w["vision_model.embeddings.position_embedding.weight"])
    for layer in range(2):
        name = f"vision_model.encoder.layers.{layer}"
        shift, scale, gate, shift2, scale2, gate2 = linear(f"{name}.adaLN_modulation.1", time)[:, None].chunk(6, -1)
        y = norm(f"{name}.layer_norm1", x) * (1 + scale) + shift
        q, k, v = (linear(f"{name}.self_attn.{part}_proj", y).unflatten(-1, (2, 16)).transpose(1, 2) for part in "qkv")
        y = ((q @ k.transpose(2, 3) / math.sqrt(16)).softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + gate * linear(f"{name}.self_attn.out_proj", y)
        y = norm(f"{name}.layer_norm2", x) * (1 + scale2) + shift2
        x = x + gate2 * linear(f"{name}.mlp.fc2", F.gelu(linear(f"{name}.mlp.fc1", y)))
    shift, scale = linear("vision_model.adaLN_modulation.1", time).chunk(2, -1)
    images = linear("visual_projection", norm("vision_model.post_layernorm", x[:, 0]) * (1 + scale) + shift)
    texts = judge.tower.texts(prompts).double()
    return w["logit_scale"].exp() * (F.normalize(images, dim=-1) * texts).sum(-1)


def test_a_fresh_one_is_pickscore_at_any_time(gelu_folder):
    judge, pickscore = open_step_aware(gelu_folder), open_pickscore(gelu_folder)
    wanted = pickscore.score_pixels(PROMPTS, pixels())
    assert wanted.unique().numel() == 4
    for times in (TIMES, torch.full((4,), 12.5), torch.zeros(4)):
        torch.testing.assert_close(judge.score_at(PROMPTS, pixels(), times), wanted, rtol=0, atol=1e-6)
    again, other = (open_step_aware(gelu_folder, seed=seed).network.time for seed in (0, 1))
    assert torch.equal(judge.network.time.widen.weight, again.widen.weight)
    assert not torch.equal(again.widen.weight, other.widen.weight)
    assert judge.network.time.vector.weight.std() == pytest.approx(0.02, rel=0.1)


def test_sinusoids_are_cosines_then_sines():
    row = sinusoids(torch.tensor([951]))[0].double()
    assert row.shape == (256,)
    slowest = 951 * 10000 ** (-127 / 128)
    wanted = [math.cos(951), math.cos(951 * 10000 ** (-1 / 128)), math.cos(slowest), math.sin(951), math.sin(slowest)]
    torch.testing.assert_close(row[[0, 1, 127, 128, 255]], torch.tensor(wanted).double(), rtol=0, atol=2e-4)
    assert torch.equal(sinusoids(torch.zeros(1))[0], torch.cat([torch.ones(128), torch.zeros(128)]))


def test_scores_are_the_papers_formula(gelu_folder):
    judge = trained(gelu_folder)
    got = judge.score_at(PROMPTS, pixels(), TIMES)
    assert got.dtype == torch.float32
    torch.testing.assert_close(
        got.double(), by_hand(judge, PROMPTS, pixels(), TIMES), rtol=0, atol=5e-3
    )  # float32 at angle 951
    # The tolerance is small beside what any of the parts does.
    for change in ("blocks.0.bias", "blocks.1.bias", "pooled.bias", "widen.weight"):
        other = trained(gelu_folder)
        other.network.time.get_parameter(change).mul_(1.1)
        assert (other.score_at(PROMPTS, pixels(), TIMES) - got).abs().max() > 0.05, change


def test_each_picture_has_its_own_time_and_no_company(gelu_folder):
    judge = trained(gelu_folder)
    scores = judge.score_at(PROMPTS, pixels(), TIMES)
    for row in range(4):
        alone = judge.score_at(PROMPTS[row : row + 1], pixels()[row : row + 1], TIMES[row : row + 1])
        torch.testing.assert_close(alone[0], scores[row], rtol=0, atol=1e-4)
    same = judge.score_at(["a"] * 2, pixels(1).expand(2, -1, -1, -1), torch.tensor([0, 951]))
    assert abs(same[0] - same[1]) > 0.1


def test_the_networks_own_scores_are_the_same_and_all_of_it_can_be_trained(gelu_folder):
    judge = trained(gelu_folder)
    ids, owners = judge.tower.prompts.read(PROMPTS[:2]), torch.tensor([1, 0, 0, 1])
    network = judge.network.requires_grad_(True)
    scores = network(ids, pixels(), owners, TIMES)
    wanted = judge.score_at([PROMPTS[owner] for owner in owners], pixels(), TIMES)
    torch.testing.assert_close(scores, wanted, rtol=0, atol=1e-4)
    scores.sum().backward()
    flat = {name: p.grad for name, p in network.named_parameters()}
    assert [name for name, gradient in flat.items() if gradient is None] == []
    assert all(gradient.isfinite().all() for gradient in flat.values())
    network.zero_grad()
    network.recompute_activations()
    network.train()(ids, pixels(), owners, TIMES).sum().backward()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, flat[name], rtol=1e-4, atol=1e-4, msg=name)


def test_gradients_reach_pictures_but_no_frozen_weight(gelu_folder):
    judge = trained(gelu_folder)
    images = torch.rand(2, 3, 40, 60, generator=torch.Generator().manual_seed(3), requires_grad=True)
    judge.score_at(PROMPTS[:2], judge.prepare_tensor(images), TIMES[:2]).sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in judge.network.parameters())


def test_a_prompt_is_encoded_once(gelu_folder):
    judge = open_step_aware(gelu_folder)
    seen, encode = [], judge.tower.prompts.encode
    judge.tower.prompts.encode = lambda prompts: seen.extend(prompts) or encode(prompts)
    scores = judge.score_at(PROMPTS, pixels(), TIMES)
    assert seen == [*PROMPTS[:2], ""]
    texts = judge.tower.texts(PROMPTS)
    assert torch.equal(judge.score_texts(texts, pixels(), TIMES), scores)
    with pytest.raises(ValueError, match="3 times"):
        judge.score_at(PROMPTS, pixels(), TIMES[:3])
    with pytest.raises(ValueError, match="1 prompts and 4 media"):
        judge.score_at(["a"], pixels(), TIMES)


def test_pictures_are_resized_without_antialiasing_as_the_reference_does(gelu_folder):
    judge = open_step_aware(gelu_folder)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    square = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(4))
    wanted = F.interpolate(square, size=(28, 28), mode="bicubic", align_corners=False)
    wanted = (wanted.clamp(0, 1) - mean) / std
    torch.testing.assert_close(judge.prepare_tensor(square), wanted, rtol=0, atol=1e-6)
    # 28 * 95 / 60 = 44.3 makes 44; of the excess of 16, eight are on each side.
    wide = torch.rand(1, 3, 60, 95, generator=torch.Generator().manual_seed(5))
    wanted = F.interpolate(wide, size=(28, 44), mode="bicubic", align_corners=False)[..., 8:36]
    torch.testing.assert_close(judge.prepare_tensor(wide), (wanted.clamp(0, 1) - mean) / std, rtol=0, atol=1e-6)


@pytest.mark.parametrize("ending", ["bin", "safetensors"])
def test_the_published_layout_opens(gelu_folder, tokenizer_folder, tmp_path, ending):
    from safetensors.torch import save_file

    judge = trained(gelu_folder)
    file = tmp_path / f"sdxl_step-aware_preference_model.{ending}"
    state = published(judge)
    if ending == "bin":
        torch.save(state, file)
    else:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, file)
    for tokenizer in (tokenizer_folder, None):  # None: open_clip's own
        opened = open_step_aware(file, tokenizer, heads=HEADS)
        wanted = judge.score_at(PROMPTS, pixels(), TIMES)
        torch.testing.assert_close(opened.score_at(PROMPTS, pixels(), TIMES), wanted, rtol=0, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in opened.network.parameters())


def test_what_is_saved_opens_and_has_the_published_names(gelu_folder, tmp_path):
    judge = trained(gelu_folder)
    save_step_aware(judge, tmp_path)
    expected = {name for name in published(judge) if not name.endswith("position_ids")}
    assert load_file(tmp_path / FILE).keys() == expected
    for path in (tmp_path, tmp_path / FILE):
        opened = open_step_aware(path)  # heads and tokenizer are told
        assert torch.equal(opened.score_at(PROMPTS, pixels(), TIMES), judge.score_at(PROMPTS, pixels(), TIMES))
        assert opened.tokenizer == str(tmp_path)
    half = open_step_aware(tmp_path, dtype=torch.bfloat16)
    assert half.network.time.blocks[0].weight.dtype == torch.bfloat16
    scores = half.score_at(PROMPTS, pixels(), TIMES)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, judge.score_at(PROMPTS, pixels(), TIMES), rtol=0, atol=8.0)


def test_the_full_size_model_has_the_published_names_and_shapes():
    tower = {"hidden_act": "gelu", "projection_dim": 1024, "num_attention_heads": 16}
    text = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
    vision = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32}
    config = CLIPConfig(
        text_config=tower | text,
        vision_config=tower | vision | {"patch_size": 14, "image_size": 224},
        projection_dim=1024,
    )
    with torch.device("meta"):
        network = StepAwareClip(CLIPModel(config), TimeModulation(1280, 32), end=49407)
    counts = [sum(p.numel() for p in part.parameters()) for part in (network.model, network.time)]
    first, second = 256 * 1280 + 1280, 1280 * 1280 + 1280
    blocks, pooled = 32 * (1280 * 7680 + 7680), 1280 * 2560 + 2560
    assert counts == [986_109_441, first + second + blocks + pooled]
    assert sum(counts) == 1_306_176_001
    state = join_step_aware(StepAwareState(network.model.state_dict(), network.time.state_dict()))
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert shapes["model.t_embedder.mlp.0.weight"] == (1280, 256)
    assert shapes["model.t_embedder.mlp.2.weight"] == (1280, 1280)
    assert shapes["model.vision_model.adaLN_modulation.1.weight"] == (2560, 1280)
    for layer in range(32):
        name = f"model.vision_model.encoder.layers.{layer}.adaLN_modulation.1"
        assert (shapes[f"{name}.weight"], shapes[f"{name}.bias"]) == ((7680, 1280), (7680,))
    assert shapes["model.visual_projection.weight"] == (1024, 1280)
    assert len(shapes) == len(network.model.state_dict()) + 2 * (1 + 1 + 32 + 1)
    back = split_step_aware(state)
    assert back.clip.keys() == network.model.state_dict().keys()
    assert back.time.keys() == network.time.state_dict().keys()


def test_faults_are_told(gelu_folder, tmp_path):
    with pytest.raises(UserError, match=r"gone.bin does not exist; give a step-aware"):
        open_step_aware(tmp_path / "gone.bin")
    torch.save(open_pickscore(gelu_folder).tower.model.state_dict(), tmp_path / "plain.bin")
    with pytest.raises(UserError, match=r"plain.bin has no model.t_embedder.mlp.0.weight; .* give PickScore's folder"):
        open_step_aware(tmp_path / "plain.bin")
    state = published(trained(gelu_folder))
    del state["model.vision_model.encoder.layers.1.adaLN_modulation.1.bias"]
    torch.save(state, tmp_path / "cut.bin")
    with pytest.raises(UserError, match=r"cut.bin: its tensors do not make a step-aware .*blocks.1.bias"):
        open_step_aware(tmp_path / "cut.bin", heads=HEADS)
