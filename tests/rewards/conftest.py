"""Tiny CLIP models in the official layouts with the official vocabulary, which open_clip's package carries."""

from pathlib import Path

import open_clip
import pytest
import torch
from transformers import (
    BlipTextConfig,
    BlipTextModel,
    BlipVisionConfig,
    BlipVisionModel,
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
)

from palate.rewards.blip_keys import MLP_LAYERS, imagereward_keys

WIDTHS = {"hidden_size": 32, "intermediate_size": 64, "projection_dim": 16}


def build_open_clip(quick_gelu: bool = False, seed: int = 0) -> open_clip.CLIP:
    """Text: 2 layers of 4 heads; vision: 3 layers of 2 heads, 28 pixels in patches of 14."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = open_clip.CLIP(
            embed_dim=16,
            vision_cfg={"image_size": 28, "layers": 3, "width": 48, "head_width": 24, "patch_size": 14},
            text_cfg={"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2},
            quick_gelu=quick_gelu,
        )
        for parameter in model.parameters():  # biases and norms are not left at 0 and 1
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def build_transformers(activation: str, vocabulary: int = 49408, end: int = 49407, seed: int = 0) -> CLIPModel:
    """Text: 2 layers of 4 heads; vision: 2 layers of 2 heads, 28 pixels in patches of 14."""
    tower = {**WIDTHS, "num_hidden_layers": 2, "hidden_act": activation}
    config = CLIPConfig(
        text_config={**tower, "num_attention_heads": 4, "vocab_size": vocabulary, "eos_token_id": end},
        vision_config={**tower, "num_attention_heads": 2, "image_size": 28, "patch_size": 14},
        projection_dim=16,
        logit_scale_init_value=4.6052,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = CLIPModel(config)
        for parameter in model.parameters():
            if parameter is not model.logit_scale:
                parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


@pytest.fixture(scope="session")
def make_open_clip():
    return build_open_clip


@pytest.fixture(scope="session")
def make_transformers():
    return build_transformers


@pytest.fixture(scope="session")
def tokenizer() -> CLIPTokenizer:
    """transformers' tokenizer with OpenAI's vocabulary."""
    source = open_clip.tokenizer.SimpleTokenizer()
    vocabulary = {
        {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}.get(token, token): index
        for token, index in source.encoder.items()
    }
    return CLIPTokenizer(vocab=vocabulary, merges=list(source.bpe_ranks))


@pytest.fixture(scope="session")
def tokenizer_folder(tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def gelu_folder(tokenizer, tmp_path_factory) -> Path:
    """A model as PickScore's is laid out."""
    folder = tmp_path_factory.mktemp("gelu")
    build_transformers("gelu").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def quick_gelu_folder(tokenizer, tmp_path_factory) -> Path:
    """A model as OpenAI's is laid out, with the wrong end token of its first conversion."""
    folder = tmp_path_factory.mktemp("quick_gelu")
    build_transformers("quick_gelu", end=2).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


BERT_WORDS = ["a", "red", "blue", "big", "dog", "cat", "on", "the", "roof"]


@pytest.fixture(scope="session")
def hps_file(tmp_path_factory) -> Path:
    """As the official one: float16 under the key `state_dict`; for `Heads(text=4, vision=2)`."""
    path = tmp_path_factory.mktemp("hps_official") / "HPS_v2.1_compressed.pt"
    torch.save({"state_dict": build_open_clip().half().state_dict()}, path)
    return path


@pytest.fixture(scope="session")
def imagereward_folder(tmp_path_factory) -> Path:
    """A tiny ImageReward.pt (2 layers of one head, 32 pixels in patches of 16) beside a tiny `vocab.txt`."""
    folder = tmp_path_factory.mktemp("imagereward")
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *BERT_WORDS]))
    width = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1}
    ends = {"bos_token_id": None, "sep_token_id": None, "pad_token_id": 0, "eos_token_id": None}
    text = {**width, **ends, "vocab_size": len(BERT_WORDS) + 7, "encoder_hidden_size": 64, "is_decoder": True}
    with torch.random.fork_rng():
        torch.manual_seed(2)
        vision_model = BlipVisionModel(BlipVisionConfig(**width, image_size=32, patch_size=16))
        text_model = BlipTextModel(BlipTextConfig(**text), add_pooling_layer=False)
        state = {f"vision_model.{name}": tensor for name, tensor in vision_model.state_dict().items()}
        state |= {f"text_encoder.{name}": tensor for name, tensor in text_model.state_dict().items()}
        state = {
            name: tensor + 0.2 * torch.randn_like(tensor)
            for name, tensor in state.items()
            if tensor.is_floating_point()
        }
        for layer, outputs, inputs in zip(MLP_LAYERS, (64, 32, 16, 8, 1), (64, 64, 32, 16, 8), strict=True):
            state[f"mlp.layers.{layer}.weight"] = torch.randn(outputs, inputs) / inputs**0.5
            state[f"mlp.layers.{layer}.bias"] = torch.zeros(outputs)
    torch.save({key: state[name] for key, name in imagereward_keys(2, 2).items()}, folder / "ImageReward.pt")
    return folder
