"""A tiny CLIP with a tokenizer of its own, and preference groups over pictures whose colour the prompt names."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

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


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """A forked child would wait for the threads that OpenMP had in its parent."""
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
