"""Tiny CLIP models in the official layouts with the official vocabulary, which open_clip's package carries."""

from pathlib import Path

import open_clip
import pytest
import torch
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

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
