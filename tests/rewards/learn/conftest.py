"""A tiny CLIP and a tiny Qwen2-VL with their tokenizers, and preference groups whose prompts name a colour."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    Qwen2Tokenizer,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

from palate.datasets.group import Group
from palate.datasets.parquet import write_groups

COLOURS = {"red": (200, 30, 30), "green": (30, 180, 40), "blue": (40, 60, 220)}


def png(colour: str, seed: int, side: int = 16) -> bytes:
    """A noisy picture of one colour."""
    noise = np.random.default_rng(seed).integers(-25, 26, (side, side, 3))
    levels = (np.array(COLOURS[colour]) + noise).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "PNG")
    return file.getvalue()


def build_groups(count: int, first: int = 0, source: str | None = None, fresh: int = 0) -> list[Group]:
    """Prompts name a colour; of three pictures the one in it is best, and the other two tie. Every fifth is a tie."""
    names, groups = list(COLOURS), []
    for number in range(first, first + count):
        wanted = names[number % 3]
        order = np.random.default_rng(number).permutation(3)
        labels = [0.5] * 3 if number % 5 == 0 else [float(names[i] == wanted) for i in order]
        pictures = tuple(png(names[i], fresh + 10 * number + i) for i in order)
        groups.append(Group(f"g{number}", f"a {wanted} wall {number // 6}", pictures, tuple(labels), source=source))
    return groups


@pytest.fixture(scope="session")
def make_groups():
    return build_groups


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Sums over more threads end in other bits, and a forked child would wait for the threads of its parent.

    For the module, so that it comes before the module's runs.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def groups(tmp_path_factory) -> Path:
    """60 groups of two sources."""
    folder = tmp_path_factory.mktemp("groups") / "groups"
    write_groups([*build_groups(40, source="web"), *build_groups(20, 40, source="app")], folder)
    return folder


def tiny_tokenizer() -> CLIPTokenizer:
    """Letters and digits, each a token of its own."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    return CLIPTokenizer(vocab={token: number for number, token in enumerate(tokens)}, merges=[])


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory) -> Path:
    """A CLIP as transformers writes it: 16 pixels in patches of 8, two blocks a tower."""
    tokenizer = tiny_tokenizer()
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "hidden_act": "gelu"}
    tower |= {"num_attention_heads": 2, "projection_dim": 16}
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = CLIPConfig(
        text_config={**tower, **ends, "vocab_size": len(tokenizer), "max_position_embeddings": 24},
        vision_config={**tower, "image_size": 16, "patch_size": 8},
        projection_dim=16,
    )
    folder = tmp_path_factory.mktemp("clip")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


MARKS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]


@pytest.fixture(scope="session")
def qwen_folder(tmp_path_factory) -> Path:
    """A tiny Qwen2-VL as the hub has it: names and flat configuration of before transformers 5, bytes for tokens."""
    vision = {"depth": 2, "embed_dim": 48, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 4, "patch_size": 14}
    config = {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 1, 1]},
        "vocab_size": 270,  # 256 bytes, six marks, and rows that no token has
        "bos_token_id": 256,
        "eos_token_id": 256,
        "torch_dtype": "float32",
        "vision_config": {**vision, "in_chans": 3, "spatial_merge_size": 2, "temporal_patch_size": 2},
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Qwen2VLForConditionalGeneration(Qwen2VLConfig.from_dict(dict(config)))
    state = {
        name.replace("model.visual.", "visual.").replace("model.language_model.", "model."): 3 * tensor
        for name, tensor in model.state_dict().items()
    }
    folder = tmp_path_factory.mktemp("qwen")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [*map(chr, printable), *map(chr, range(256, 324))]  # byte-level BPE's
    tokenizer = Qwen2Tokenizer(vocab={letter: number for number, letter in enumerate(letters)}, merges=[])
    tokenizer.add_tokens(MARKS, special_tokens=True)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def short_questions(monkeypatch) -> None:
    """HPSv3's question without its 2,500 letters of instruction, and pictures of 56 x 56 pixels."""
    monkeypatch.setattr("palate.rewards.hpsv3_prompts.INSTRUCTION", "{text_prompt}")
    monkeypatch.setattr("palate.rewards.learn.vlm.PIXELS", 56 * 56)
    monkeypatch.setattr("palate.rewards.hpsv3.PIXELS", 56 * 56)
