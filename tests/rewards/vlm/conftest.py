"""Tiny vision-language models of two real families, with random weights and a tokenizer of single bytes."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

END, PAD = "<|im_end|>", "<|endoftext|>"
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}PICTURE{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "bos_token_id": None,
}
CHATTY = {"do_sample": True, "temperature": 3.0, "repetition_penalty": 30.0}
"""How the checkpoints want to chat; a judge must not."""


LETTERS = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}


def beginning_tokenizer(special: list[str], begin: str) -> PreTrainedTokenizerFast:
    """Puts `begin` before every text, as Llama's does."""
    backend = Tokenizer(models.BPE(LETTERS, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([begin])
    backend.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, backend.token_to_id(begin))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=END, pad_token=PAD, bos_token=begin, extra_special_tokens=special
    )


def build_qwen(folder: Path) -> None:
    """Qwen2.5-VL: pictures of their own size, three axes of positions."""
    names = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    special = [*names, "<|im_start|>"]
    tokenizer = Qwen2Tokenizer(LETTERS, [], eos_token=END, pad_token=PAD, extra_special_tokens=special)
    ids = tokenizer.convert_tokens_to_ids([*names, END, PAD])
    chat = CHAT.replace("PICTURE", "<|vision_start|><|image_pad|><|vision_end|>")
    images = Qwen2VLImageProcessor(size={"shortest_edge": 28 * 28, "longest_edge": 16 * 28 * 28})
    processor = Qwen2_5_VLProcessor(images, tokenizer, Qwen2VLVideoProcessor(), chat_template=chat)
    positions = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    ends = {"eos_token_id": ids[4], "pad_token_id": ids[5]}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 32}
    config = Qwen2_5_VLConfig(
        text_config={**TEXT, **ends, "vocab_size": len(tokenizer), "rope_parameters": positions},
        vision_config={**vision, "window_size": 56, "fullatt_block_indexes": [1]},
        vision_start_token_id=ids[0],
        vision_end_token_id=ids[1],
        image_token_id=ids[2],
        video_token_id=ids[3],
    )
    save(Qwen2_5_VLForConditionalGeneration, config, processor, folder)


def build_idefics(folder: Path) -> None:
    """Idefics3, of which SmolVLM is one: pictures in tiles, a chat that begins with a token of its own."""
    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4)]
    special = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", "<|im_start|>"]
    tokenizer = beginning_tokenizer([*special, *tiles], "<s>")
    image, end, pad = tokenizer.convert_tokens_to_ids(["<image>", END, PAD])
    images = Idefics3ImageProcessor(size={"longest_edge": 84}, max_image_size={"longest_edge": 28})
    chat = "<s>" + CHAT.replace("PICTURE", "<image>")
    processor = Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=chat)
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**TEXT, "model_type": "llama", "vocab_size": len(tokenizer), "eos_token_id": end, "pad_token_id": pad}
    config = Idefics3Config(
        text_config=text,
        vision_config={**vision, "image_size": 28, "patch_size": 7},
        image_token_id=image,
        scale_factor=2,
        pad_token_id=pad,
    )
    save(Idefics3ForConditionalGeneration, config, processor, folder)


def save(family: type, config, processor, folder: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = family(config)
        for parameter in model.parameters():  # else pictures hardly count
            parameter.data += 0.15 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    ends = {"eos_token_id": config.text_config.eos_token_id, "pad_token_id": config.text_config.pad_token_id}
    (folder / "generation_config.json").write_text(json.dumps({**ends, **CHATTY}))


@pytest.fixture(scope="session")
def qwen_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("qwen")
    build_qwen(folder)
    return folder


@pytest.fixture(scope="session")
def idefics_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("idefics")
    build_idefics(folder)
    return folder


@pytest.fixture(scope="session")
def make_picture() -> Callable[..., Image.Image]:
    """Noise of a given width, height and seed."""

    def make(width: int, height: int, seed: int) -> Image.Image:
        levels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        return Image.fromarray(levels)

    return make
