"""A tiny CLIP to start from, whose tokenizer knows the shapes world's words, and small recipes."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from palate.datasets.shapes.prompts import all_prompts
from palate.t2i.step_aware.config import StepAwareRecipe
from palate.t2i.step_aware.fit import open_frozen, open_judge, prepared_pairs
from palate.t2i.step_aware.task import StepAwareTask


def word_tokenizer() -> CLIPTokenizer:
    """Byte pairs, the most frequent first, until every word of the world is one token; the same in every process."""
    texts = {word for prompt in all_prompts() for word in prompt.text.split()}
    words = [[*word[:-1], f"{word[-1]}</w>"] for word in sorted(texts)]
    tokens, merges = ["<|startoftext|>", "<|endoftext|>", *sorted({part for word in words for part in word})], []
    while counts := Counter(pair for word in words for pair in itertools.pairwise(word)):
        merges.append(max(counts, key=lambda pair: (counts[pair], pair)))
        tokens.append("".join(merges[-1]))
        for word in words:
            for place in reversed(range(len(word) - 1)):
                if tuple(word[place : place + 2]) == merges[-1]:
                    word[place : place + 2] = [tokens[-1]]
    return CLIPTokenizer(vocab={token: number for number, token in enumerate(tokens)}, merges=merges)


@pytest.fixture(scope="session")
def start(tmp_path_factory) -> Path:
    """As PickScore is laid out: 64 pixels in patches of 8, random weights."""
    tokenizer = word_tokenizer()
    tower = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 4, "hidden_act": "gelu"}
    tower |= {"initializer_range": 0.1}  # CLIP's own 0.02 is for towers ten times as wide
    ends = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text = {"num_hidden_layers": 2, "vocab_size": len(tokenizer), "max_position_embeddings": 16, **ends}
    vision = {"num_hidden_layers": 3, "image_size": 64, "patch_size": 8}
    config = CLIPConfig(text_config=tower | text, vision_config=tower | vision, projection_dim=64)
    folder = tmp_path_factory.mktemp("start")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def recipe_for(start, pairs, warm_cache, tmp_path) -> Callable[..., StepAwareRecipe]:
    """`recipe_for(section={...})`: a small recipe with these changes."""

    def build(**changes: dict[str, Any]) -> StepAwareRecipe:
        quick = {"steps": 2, "batch_size": 4, "micro_batch": 4, "workers": 0, "trackers": [], "learning_rate": 1e-3}
        values = {
            "model": {"path": "tiny-sdxl"},
            "data": {"path": str(pairs), "cache": str(warm_cache)},
            "method": {"name": "step_aware", "start": str(start)},
            "training": {**quick, "validate_every": None, "sample_every": None},
            "output": {"folder": str(tmp_path / "run")},
        }
        return StepAwareRecipe.model_validate(
            {name: {**section, **changes.get(name, {})} for name, section in values.items()}
        )

    return build


@pytest.fixture
def task_for() -> Callable[[StepAwareRecipe], StepAwareTask]:
    """The task of a recipe, as `fit_step_aware` makes it."""

    def build(recipe: StepAwareRecipe) -> StepAwareTask:
        model = open_frozen(recipe.model, "no", "cpu")
        return StepAwareTask(
            model=model,
            judge=open_judge(recipe.method, recipe.training.seed),
            prepared=prepared_pairs(model, recipe, lambda line: None, lambda *progress: None),
            empty=model.encode_prompts([""]),
            guidance=recipe.method.guidance,
            evaluate_at=recipe.method.evaluate_at,
            seed=recipe.training.seed,
            batch_size=recipe.training.batch_size,
            micro_batch=recipe.training.micro_batch,
        )

    return build
