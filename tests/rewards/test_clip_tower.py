import json
import logging
import shutil

import open_clip
import pytest
import torch
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from palate.errors import UserError
from palate.rewards.clip_keys import Heads, rename_open_clip
from palate.rewards.clip_prompts import open_clip_prompts, transformers_prompts
from palate.rewards.clip_tower import ClipTower, projected

HEADS = Heads(text=4, vision=2)
PROMPTS = ["a red cube", "Two DOGS, on a café's roof; it's 12 o'clock", "", "word " * 100, "naïve 日本語 :-)"]


def pixels(n: int, size: int = 28) -> torch.Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(n))


def close(got: torch.Tensor, wanted: torch.Tensor, atol: float = 1e-6) -> None:
    torch.testing.assert_close(got, wanted, rtol=0, atol=atol)


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_features_of_an_open_clip_state_are_open_clips(make_open_clip, activation):
    model = make_open_clip(quick_gelu=activation == "quick_gelu")
    tower = ClipTower.from_open_clip(model.state_dict(), HEADS, activation)
    with torch.no_grad():
        close(tower.images(pixels(3)), model.encode_image(pixels(3), normalize=True))
        ids = open_clip.get_tokenizer("ViT-H-14")(PROMPTS)
        close(tower.texts(PROMPTS), model.encode_text(ids, normalize=True))
        close(tower.scale, model.logit_scale.exp())
    assert tower.image_size == 28


def test_the_activation_matters(make_open_clip):
    state = make_open_clip().state_dict()
    gelu, quick = (ClipTower.from_open_clip(state, HEADS, name).images(pixels(2)) for name in ("gelu", "quick_gelu"))
    assert (gelu - quick).abs().max() > 1e-4


@pytest.mark.parametrize("end", [49407, 2, 7])
def test_features_of_a_folder_are_transformers_own_whatever_end_token_its_config_names(
    make_transformers, tokenizer, tmp_path, end
):
    make_transformers("gelu", end=end).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    tower = ClipTower.open(tmp_path, "gelu")
    model = make_transformers("gelu", end=49407)
    inputs = tokenizer(PROMPTS, padding=True, truncation=True, max_length=77, return_tensors="pt")
    with torch.no_grad():
        close(tower.texts(PROMPTS), F.normalize(model.get_text_features(**inputs).pooler_output, dim=-1))
        close(
            tower.images(pixels(3)),
            F.normalize(model.get_image_features(pixel_values=pixels(3)).pooler_output, dim=-1),
        )


def test_a_token_behind_the_end_token_in_the_vocabulary_is_not_taken_for_it(
    make_transformers, tokenizer_folder, tmp_path
):
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)
    tokenizer.add_tokens(["<mine>"])
    tokenizer.save_pretrained(tmp_path)
    make_transformers("gelu", vocabulary=49409, end=2).save_pretrained(tmp_path)
    inputs = tokenizer(["a <mine> on a table"], return_tensors="pt")
    assert inputs["input_ids"].max() == 49408
    with torch.no_grad():
        wanted = make_transformers("gelu", vocabulary=49409, end=49407).get_text_features(**inputs).pooler_output
        close(ClipTower.open(tmp_path, "gelu").texts(["a <mine> on a table"]), F.normalize(wanted, dim=-1))


def test_padding_with_zeros_or_end_tokens_gives_one_feature(gelu_folder):
    tower = ClipTower.open(gelu_folder, "gelu")
    ids = tower.prompts.read(PROMPTS)
    ends = (ids == 49407).int().argmax(dim=-1)
    zeros = ids.where(torch.arange(77) <= ends[:, None], 0)
    assert not torch.equal(ids, zeros)
    close(tower.text_ids(zeros), tower.text_ids(ids))
    close(tower.text_ids(ids[:1, : ends[0] + 1]), tower.text_ids(ids[:1]))
    with pytest.raises(ValueError, match="no end token"):
        tower.text_ids(torch.zeros(1, 77, dtype=torch.long))


def test_both_tokenizers_give_open_clips_ids(tokenizer_folder):
    wanted = open_clip.get_tokenizer("ViT-H-14")(PROMPTS)
    ends = wanted.argmax(dim=-1)
    wanted = wanted.where(torch.arange(77) <= ends[:, None], 49407)
    assert ends[3] == 76
    assert torch.equal(open_clip_prompts(77).read(PROMPTS), wanted)
    assert torch.equal(transformers_prompts(tokenizer_folder, 49408, 77).read(PROMPTS), wanted)


def test_a_prompt_of_exactly_77_tokens_is_whole_and_the_next_is_cut(caplog):
    prompts = open_clip_prompts(77)
    with caplog.at_level(logging.WARNING, logger="palate.rewards.clip_prompts"):
        ids = prompts.read(["word " * 75])
        assert (prompts.cut, caplog.messages, ids[0, -1].item()) == (0, [], 49407)
        assert torch.equal(prompts.read(["word " * 76, "word"])[0], ids[0])
        prompts.read(["word " * 80])
    assert prompts.cut == 2
    assert len(caplog.messages) == 1
    assert "1 of 2 prompts are longer than the 77 tokens" in caplog.messages[0]


def test_each_distinct_prompt_is_encoded_once(gelu_folder):
    tower = ClipTower.open(gelu_folder, "gelu")
    seen, encode = [], tower.prompts.encode
    tower.prompts.encode = lambda prompts: seen.extend(prompts) or encode(prompts)
    features = tower.texts(["b", "a", "b", "b"])
    assert seen == ["b", "a"]
    assert torch.equal(features, torch.stack([features[0], features[1], features[0], features[0]]))
    assert not torch.equal(features[0], features[1])


def test_in_bfloat16_features_are_unit_float32_and_the_scale_is_exact(gelu_folder):
    tower = ClipTower.open(gelu_folder, "gelu", dtype=torch.bfloat16)
    assert tower.model.visual_projection.weight.dtype == torch.bfloat16
    for features in (tower.images(pixels(3)), tower.texts(PROMPTS)):
        assert features.dtype == torch.float32
        close(features.norm(dim=-1), torch.ones(len(features)))
    assert tower.scale.item() == pytest.approx(100.0, abs=0.01)  # exp of ln 100 in bfloat16 is 98.9
    exact = ClipTower.open(gelu_folder, "gelu")
    assert F.cosine_similarity(tower.images(pixels(3)), exact.images(pixels(3))).min() > 0.999


def test_a_surrounding_autocast_changes_nothing(gelu_folder):
    tower = ClipTower.open(gelu_folder, "gelu")
    alone = tower.cosines(["a", "b"], pixels(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(tower.cosines(["a", "b"], pixels(2)), alone)


@pytest.mark.parametrize(
    ("name", "heads", "activation", "parameters", "text", "vision", "width"),
    [
        ("ViT-H-14", Heads(16, 16), "gelu", 986_109_441, (1024, 4096, 24, 16), (1280, 5120, 32, 16), 1024),
        (
            "ViT-L-14-quickgelu",
            Heads(12, 16),
            "quick_gelu",
            427_616_513,
            (768, 3072, 12, 12),
            (1024, 4096, 24, 16),
            768,
        ),
    ],
)
def test_the_full_size_models_map_onto_transformers_key_by_key(
    name, heads, activation, parameters, text, vision, width
):
    fields = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    with torch.device("meta"):
        state = open_clip.CLIP(**open_clip.get_model_config(name)).state_dict()
        official = CLIPModel(
            CLIPConfig(
                text_config={**dict(zip(fields, text, strict=True)), "hidden_act": activation},
                vision_config={**dict(zip(fields, vision, strict=True)), "hidden_act": activation, "patch_size": 14},
                projection_dim=width,
            )
        )
    renamed = rename_open_clip(state, name)
    wanted = {key: tensor.shape for key, tensor in official.state_dict().items()}
    assert {key: tensor.shape for key, tensor in renamed.items()} == wanted
    tower = ClipTower.from_open_clip(state, heads, activation, device="meta")
    assert sum(parameter.numel() for parameter in tower.model.parameters()) == parameters
    for side in ("text_config", "vision_config"):
        built, published = getattr(tower.model.config, side), getattr(official.config, side)
        for field in (*fields, "hidden_act", "layer_norm_eps"):
            assert getattr(built, field) == getattr(published, field)


def test_a_state_of_another_model_is_told(make_open_clip, gelu_folder):
    state = make_open_clip().state_dict()
    with pytest.raises(UserError, match=r"x.pt: visual.trunk.norm is no key of an open_clip model"):
        ClipTower.from_open_clip({**state, "visual.trunk.norm": torch.zeros(1)}, HEADS, "gelu", source="x.pt")
    with pytest.raises(UserError, match=r"x.pt lacks the tensor for visual_projection.weight"):
        ClipTower.from_open_clip({k: v for k, v in state.items() if k != "visual.proj"}, HEADS, "gelu", source="x.pt")
    missing = {k: v for k, v in state.items() if k != "transformer.resblocks.1.ln_1.bias"}
    with pytest.raises(UserError, match=r"x.pt: its tensors do not make a CLIP model .*layer_norm1.bias"):
        ClipTower.from_open_clip(missing, HEADS, "gelu", source="x.pt")


def test_a_constant_mask_and_a_parallel_wrapper_do_not_disturb(make_open_clip):
    state = make_open_clip().state_dict()
    wrapped = {f"module.{key}": tensor for key, tensor in state.items()} | {"attn_mask": torch.zeros(77, 77)}
    assert rename_open_clip(wrapped, "x").keys() == rename_open_clip(state, "x").keys()


def test_another_activation_is_refused(gelu_folder):
    with pytest.raises(UserError, match="has the activation gelu and this reward needs quick_gelu"):
        ClipTower.open(gelu_folder, "quick_gelu")


def test_a_folder_without_all_tensors_is_refused_and_not_filled_with_random_numbers(
    make_transformers, tokenizer_folder, tmp_path
):
    model = make_transformers("gelu")
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("text_projection")}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(UserError, match=r"lacks text_projection.weight \(1 tensors in all\)"):
        ClipTower.open(tmp_path, "gelu", tokenizer_folder)


def test_a_folder_without_a_tokenizer_or_with_anothers_is_refused(make_transformers, gelu_folder, tmp_path):
    make_transformers("gelu").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has 2 tokens and the model 49408; give the model's own tokenizer"):
        ClipTower.open(tmp_path, "gelu")
    assert ClipTower.open(tmp_path, "gelu", tokenizer=gelu_folder).prompts.end == 49407


def test_open_clips_tokenizer_needs_a_vocabulary_of_its_size(make_open_clip):
    state = make_open_clip().state_dict()
    state["token_embedding.weight"] = state["token_embedding.weight"][:100]
    with pytest.raises(UserError, match="end token is 49407 and the model knows only 100 tokens"):
        ClipTower.from_open_clip(state, HEADS, "gelu")


def test_a_feature_comes_as_a_tensor_or_as_pooler_output():
    feature = torch.ones(1)
    assert projected(feature) is feature
    with pytest.raises(TypeError, match="got a str without a feature"):
        projected("?")


@pytest.mark.parametrize("cut", [0, 100, 5000])
def test_a_damaged_file_of_weights_is_one_line(gelu_folder, tmp_path, cut):
    shutil.copytree(gelu_folder, tmp_path / "part")
    file = tmp_path / "part" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(UserError, match=r"part cannot be loaded as a CLIP model \(.+\); give a folder or a hub id"):
        ClipTower.open(tmp_path / "part", "gelu")
    with pytest.raises(UserError, match=r"nowhere cannot be loaded as a CLIP model \(there is no such folder"):
        ClipTower.open(tmp_path / "nowhere", "gelu")


def test_weights_of_another_size_are_named(gelu_folder, tmp_path):
    shutil.copytree(gelu_folder, tmp_path / "other")
    file = tmp_path / "other" / "config.json"
    config = json.loads(file.read_text())
    config["projection_dim"] += 2
    file.write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"lacks .*projection.weight in the size that its config.json tells"):
        ClipTower.open(tmp_path / "other", "gelu")
