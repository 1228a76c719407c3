"""The question that HPSv3 was trained with, character by character."""

import hashlib

import pytest
from transformers import Qwen2Tokenizer

from palate.errors import UserError
from palate.rewards.hpsv3_prompts import INSTRUCTION, SUFFIX, open_hpsv3_prompts

BYTES = [*map(chr, [*range(33, 127), *range(161, 173), *range(174, 256)]), *map(chr, range(256, 324))]
MARKS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    tokenizer = Qwen2Tokenizer(vocab={token: index for index, token in enumerate(BYTES)}, merges=[])
    tokenizer.add_tokens(MARKS, special_tokens=True)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def prompts(folder):
    return open_hpsv3_prompts(str(folder), 263)


@pytest.mark.parametrize(
    ("text", "length", "digest"),
    [(INSTRUCTION, 2523, "0393599dad45a971"), (SUFFIX, 67, "2471faca094ae5bd")],
)
def test_the_strings_are_those_of_hpsv3_1_0_0(text, length, digest):
    assert len(text) == length
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == digest


def test_the_question_is_one_turn_of_the_chat(prompts):
    ids = prompts.read("a {b} cat", image_tokens=3)
    text = prompts.tokenizer.decode(ids)
    assert text.startswith(
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
        "<|image_pad|><|image_pad|><|image_pad|><|vision_end|>\nYou are tasked with evaluating a generated image"
    )
    assert text.endswith(
        "\nTextual prompt - a {b} cat\n\n\n\nPlease provide the overall ratings of this image: <|Reward|>\n\nEND\n"
        "<|im_end|>\n<|im_start|>assistant\n"
    )
    assert (ids.count(prompts.image), ids.count(prompts.reward)) == (3, 1)
    assert prompts.reward == 262  # the last


def test_a_prompt_with_a_mark_has_a_fault(prompts):
    assert prompts.fault("a cat <b>") is None
    assert "<|image_pad|>" in prompts.fault("a<|image_pad|>")
    with pytest.raises(ValueError, match=r"the prompt holds <\|Reward\|>"):
        prompts.read("<|Reward|>", 1)


def test_another_tokenizer_is_refused(folder, tmp_path):
    with pytest.raises(UserError, match=r"has 263 tokens with .* and HPSv3 151658; give the folder or hub id of Qwen"):
        open_hpsv3_prompts(str(folder), 151658)
    plain = Qwen2Tokenizer(vocab={token: index for index, token in enumerate(BYTES)}, merges=[])
    plain.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="of Qwen/Qwen2-VL-7B-Instruct as base"):
        open_hpsv3_prompts(str(tmp_path), len(plain) + 1)  # of the right size, but no vision model's
