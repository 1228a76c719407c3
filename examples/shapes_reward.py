"""What a reward model of the shapes world starts from: a tiny CLIP with random weights, and preference groups.

    python examples/shapes_reward.py --output shapes-reward
    cd shapes-reward && palate train tiny-reward

A group has four pictures for its prompt: one drawn as the prompt says, one drawn so and then changed in one or two
places, and two drawn for other prompts. The oracle labels them. Training and validation share no prompt.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from palate.datasets.group import Group
from palate.datasets.parquet import write_groups
from palate.datasets.shapes.prompts import Prompt, all_prompts, draw_prompts, draw_scene
from palate.datasets.shapes.raters import oracle_rater
from palate.datasets.shapes.world import COLOURS, SHAPES, SIZE, Shape, place, render

WORDS = 12  # tokens of the longest prompt, start and end included
WIDTH = 64


def tiny_clip(folder: Path, seed: int = 0) -> None:
    """Write a CLIP of 275,000 random weights whose tokenizer knows the world's words."""
    tokenizer = word_tokenizer([prompt.text for prompt in all_prompts()])
    tower = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": 4, "hidden_act": "gelu"}
    tower |= {"initializer_range": 0.1}  # CLIP's own 0.02 is for towers ten times as wide
    ends = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text = {"num_hidden_layers": 2, "vocab_size": len(tokenizer), "max_position_embeddings": WORDS, **ends}
    vision = {"num_hidden_layers": 3, "image_size": SIZE, "patch_size": 8}
    torch.manual_seed(seed)
    config = CLIPConfig(text_config=tower | text, vision_config=tower | vision, projection_dim=WIDTH)
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def word_tokenizer(texts: list[str]) -> CLIPTokenizer:
    """CLIP's kind of tokenizer, with byte pairs learned until every word of `texts` is one token."""
    learned = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learned.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["<|startoftext|>", "<|endoftext|>"]
    learned.train_from_iterator(texts, trainers.BpeTrainer(special_tokens=special, end_of_word_suffix="</w>"))
    model = json.loads(learned.to_str())["model"]
    return CLIPTokenizer(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]])


def changed(scene: list[Shape], rng: np.random.Generator) -> list[Shape]:
    """The scene with another colour, another shape, one shape less or more, or two of them in each other's place."""
    shapes, names = list(scene), list(COLOURS)
    one = int(rng.integers(len(shapes)))
    change = rng.choice(["colour", "shape", "less", "more", "swap"])
    if change == "colour":
        shapes[one] = replace(shapes[one], colour=names[rng.integers(len(names))])
    elif change == "shape":
        shapes[one] = replace(shapes[one], shape=SHAPES[rng.integers(len(SHAPES))])
    elif change == "less" and len(shapes) > 1:
        del shapes[one]
    elif change == "more" and len(shapes) < 4:
        new = Shape(SHAPES[rng.integers(len(SHAPES))], names[rng.integers(len(names))], 0, 0, 0)
        places = place(len(shapes) + 1, rng)
        shapes = [replace(s, x=x, y=y, radius=r) for s, (x, y, r) in zip([*shapes, new], places, strict=True)]
    elif change == "swap" and len(shapes) > 1:
        a, b = shapes[one], shapes[one - 1]
        shapes[one], shapes[one - 1] = (
            replace(a, x=b.x, y=b.y, radius=b.radius),
            replace(b, x=a.x, y=a.y, radius=a.radius),
        )
    return shapes


def make_group(job: tuple[int, Prompt, list[Prompt], int]) -> Group:
    """Group `number` of a set: four pictures in random order, labelled by the oracle."""
    number, prompt, others, seed = job
    rng = np.random.default_rng([seed, number])
    flawed = draw_scene(prompt, rng)
    for _ in range(rng.integers(1, 3)):
        flawed = changed(flawed, rng)
    scenes = [draw_scene(prompt, rng), flawed, *(draw_scene(other, rng) for other in others)]
    pictures = [render(scenes[index]) for index in rng.permutation(4)]
    labels = tuple(oracle_rater(prompt.text, picture) for picture in pictures)
    return Group(f"shapes-{seed}-{number}", prompt.text, tuple(map(png, pictures)), labels, source=prompt.category)


def jobs(count: int, seed: int, held_out: bool) -> Iterator[tuple[int, Prompt, list[Prompt], int]]:
    """What `make_group` takes, for `count` prompts of one half of the world."""
    prompts = draw_prompts(count, seed, held_out)
    rng = np.random.default_rng(seed)
    for number, prompt in enumerate(prompts):
        yield number, prompt, [prompts[i] for i in rng.integers(count, size=2)], seed


def png(picture) -> bytes:
    """A picture as the bytes of a PNG file."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--groups", type=int, default=12_000, help="to train on")
    parser.add_argument("--held-out", type=int, default=600, help="to validate on")
    args = parser.parse_args()
    with multiprocessing.Pool(2) as pool:
        tiny_clip(args.output / "start")
        for split, count, seed in (("train", args.groups, 0), ("validation", args.held_out, 1)):
            groups = pool.imap(make_group, jobs(count, seed, held_out=split == "validation"), chunksize=64)
            write_groups(groups, args.output / "groups" / split, row_group_rows=8)
