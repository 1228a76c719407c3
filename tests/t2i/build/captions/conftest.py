"""A tiny vision-language chat model, and tiny language models of three kinds, random, with tokens of single bytes."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

VLM = runpy.run_path(str(Path(__file__).parents[3] / "rewards/vlm/conftest.py"))
CHAT = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}<|im_start|>"


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def vlm_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("vlm")
    VLM["build_qwen"](folder)
    return folder


def _tokenizer(chat: str | None = None) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    backend = Tokenizer(models.BPE(VLM["LETTERS"], []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>"]
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=special,
        chat_template=chat,
    )


def _save(model, tokenizer, folder: Path) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in model.parameters():
            parameter.data += 0.15 * torch.randn_like(parameter)
    model.generation_config.update(do_sample=True, temperature=9.0, repetition_penalty=30.0)  # as a checkpoint may
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def t5_folder(tmp_path_factory) -> Path:
    tokenizer = _tokenizer()
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=16,
        d_ff=48,
        num_layers=2,
        num_heads=2,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    return _save(T5ForConditionalGeneration(config), tokenizer, tmp_path_factory.mktemp("t5"))


def _llama(folder: Path, chat: str | None) -> Path:
    tokenizer = _tokenizer(chat)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=600, **sizes, **ends)
    return _save(LlamaForCausalLM(config), tokenizer, folder)


@pytest.fixture(scope="session")
def chat_folder(tmp_path_factory) -> Path:
    return _llama(tmp_path_factory.mktemp("chat"), CHAT)


@pytest.fixture(scope="session")
def causal_folder(tmp_path_factory) -> Path:
    return _llama(tmp_path_factory.mktemp("causal"), None)
