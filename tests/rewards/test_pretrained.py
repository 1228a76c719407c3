"""Folders in the layout of transformers that are damaged, or hold less or more than their configuration tells."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BlipConfig,
    BlipForImageTextRetrieval,
    BlipTextConfig,
    BlipVisionConfig,
    CLIPModel,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
)

from palate.errors import UserError
from palate.rewards.blip_prompts import open_blip_prompts
from palate.rewards.clip_prompts import transformers_prompts
from palate.rewards.hpsv3_prompts import open_hpsv3_prompts
from palate.rewards.pretrained import load_pretrained, load_tokenizer
from palate.rewards.vqa_prompts import open_vqa_prompts

ADVICE = "give a whole one"


@pytest.fixture
def clip(gelu_folder, tmp_path) -> Path:
    """A CLIP of two layers a tower, to be spoiled."""
    return Path(shutil.copytree(gelu_folder, tmp_path / "clip"))


def configure(folder: Path, part: str, **values: int | bool) -> None:
    config = json.loads((folder / "config.json").read_text())
    config[part].update(values)
    (folder / "config.json").write_text(json.dumps(config))


def add(folder: Path, **tensors: torch.Tensor) -> None:
    state = load_file(folder / "model.safetensors") | tensors
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def refused(kind: object, folder: Path) -> str:
    with pytest.raises(UserError) as told:
        load_pretrained(kind, folder, "a model", ADVICE)
    assert "\n" not in str(told.value)
    return str(told.value).removeprefix(f"{folder} ")


@pytest.mark.parametrize("part", ["text", "vision"])
def test_layers_that_the_config_does_not_count_are_not_dropped(clip, part):
    configure(clip, f"{part}_config", num_hidden_layers=1)
    # A layer has two norms, four projections of attention and two of its MLP, with a weight and a bias each: 16.
    assert refused(CLIPModel, clip) == (
        f"holds {part}_model.encoder.layers.1.layer_norm1.bias, which has no place in the model that its config.json "
        f"tells (16 tensors in all); {ADVICE}"
    )


def test_blip_without_its_cross_attention_is_refused(tmp_path):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    text = BlipTextConfig(**sizes, vocab_size=9, max_position_embeddings=4)
    vision = BlipVisionConfig(**sizes, image_size=8, patch_size=8)
    BlipForImageTextRetrieval(BlipConfig(text_config=text, vision_config=vision)).save_pretrained(tmp_path)
    add(tmp_path, **{"text_encoder.embeddings.position_ids": torch.arange(4)[None]})  # as in Salesforce's files
    load_pretrained(BlipForImageTextRetrieval, tmp_path, "a model", ADVICE)
    configure(tmp_path, "text_config", is_decoder=False)
    assert refused(BlipForImageTextRetrieval, tmp_path).startswith("holds text_encoder.encoder.layer.0.crossattention.")


def test_what_old_checkpoints_hold_and_models_compute_is_no_fault(clip):
    places = {"text_model": torch.arange(77)[None], "vision_model": torch.arange(5)[None]}
    add(clip, **{f"{tower}.embeddings.position_ids": ids for tower, ids in places.items()})
    load_pretrained(CLIPModel, clip, "a model", ADVICE)
    add(clip, **{"classifier.weight": torch.zeros(2)})
    assert refused(CLIPModel, clip).startswith("holds classifier.weight, which has no place")


def test_a_part_may_be_taken_out_of_a_whole_model(clip):
    whole = CLIPModel.from_pretrained(clip)
    pixels = torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    for kind in (CLIPVisionModel, CLIPVisionModelWithProjection):
        part = load_pretrained(kind, clip, "a model", ADVICE)
        assert torch.equal(part(pixels).last_hidden_state, whole.vision_model(pixels).last_hidden_state)


def test_a_folder_without_a_configuration_is_told_so(clip):
    (clip / "config.json").unlink()
    for kind in (CLIPModel, CLIPVisionModel):
        assert refused(kind, clip) == f"cannot be loaded as a model (it holds no config.json); {ADVICE}"


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("text", ["{}", "[]", "3", "", '{"added_tokens": [{}], "model": {"type": "BPE", "vocab": []}}'])
@pytest.mark.parametrize(
    "opener",
    [
        lambda folder: transformers_prompts(folder, 49408, 77),
        lambda folder: open_blip_prompts(folder, 30524, "blip_itc"),
        lambda folder: open_vqa_prompts(folder, 32128),
        lambda folder: open_hpsv3_prompts(folder, 151658),
    ],
    ids=["clip", "blip", "vqa", "hpsv3"],
)
def test_a_damaged_tokenizer_is_one_line(tmp_path, opener, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as told:
        opener(str(tmp_path))
    assert "\n" not in str(told.value)
    assert str(tmp_path) in str(told.value)
    assert "; give " in str(told.value)


class Faulty:
    """A tokenizer's class that says what it was asked for."""

    def __init__(self, fault: BaseException | None = None) -> None:
        self.fault = fault

    def from_pretrained(self, path: str) -> str:
        if self.fault:
            raise self.fault
        return path


def test_a_tokenizers_faults_are_lines_but_for_a_lack_of_memory(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "bert").mkdir()
    assert load_tokenizer(Faulty(), "~/bert", ADVICE) == str(tmp_path / "bert")
    assert load_tokenizer(Faulty(), "some/bert", ADVICE) == "some/bert"
    for fault, reason in [
        (Exception("not UTF-8\nat all"), "not UTF-8"),
        (KeyError("added_tokens"), "KeyError: 'added_tokens'"),
        (AssertionError(), "AssertionError"),
    ]:
        with pytest.raises(UserError) as told:
            load_tokenizer(Faulty(fault), "~/bert", ADVICE)
        assert str(told.value) == f"the tokenizer {tmp_path}/bert cannot be loaded ({reason}); {ADVICE}"
    with pytest.raises(MemoryError):
        load_tokenizer(Faulty(MemoryError()), "~/bert", ADVICE)


def test_an_adapter_is_refused_for_its_scores_depend_on_weights_elsewhere(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="is an adapter; merge it into its model and give the whole"):
        load_pretrained(CLIPModel, tmp_path, "a CLIP model", "give one")


@pytest.mark.parametrize("listed", [True, False], ids=["whole model too", "adapter alone"])
def test_an_adapter_of_the_hubs_cache_is_refused_too(gelu_folder, tmp_path, monkeypatch, listed):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    cached = tmp_path / "models--some--model"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs/main").write_text("0" * 40)
    snapshot = cached / "snapshots" / ("0" * 40)
    if listed:
        shutil.copytree(gelu_folder, snapshot)
        load_pretrained(CLIPModel, "some/model", "a CLIP model", "give one")
    snapshot.mkdir(parents=True, exist_ok=True)
    (snapshot / "adapter_config.json").write_text('{"base_model_name_or_path": "some/other"}')
    with pytest.raises(UserError, match=r"^some/model is an adapter; merge it into its model and give the whole$"):
        load_pretrained(CLIPModel, "some/model", "a CLIP model", "give one")


def test_layers_of_a_part_that_its_config_does_not_count_are_refused(gelu_folder, tmp_path):
    """CLIP's vision tower out of a whole CLIP: the text tower may lie beside it, a third layer of its own may not."""
    shutil.copytree(gelu_folder, tmp_path / "clip")
    load_pretrained(CLIPVisionModel, tmp_path / "clip", "CLIP", "give it")
    config = json.loads((tmp_path / "clip" / "config.json").read_text())
    config["vision_config"]["num_hidden_layers"] -= 1
    (tmp_path / "clip" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"holds .*encoder.layers.1.* which has no place"):
        load_pretrained(CLIPVisionModel, tmp_path / "clip", "CLIP", "give it")
