"""Pictures per second: palate's batch scorer, a loop as the reference packages do it, and decoding alone.

    python benchmarks/scoring.py                       # PickScore, HPSv2.1 and ImageReward with tiny random weights
    python benchmarks/scoring.py --images 120 --format jpg

The loop opens each picture anew for each scorer and runs one picture and one prompt per forward pass, as hpsv2 and
image-reward do. Weights are tiny, pictures are prepared at the official 224 pixels: what is measured is everything but
the networks. Decoding alone is Pillow's, `Image.open` and `load` in as many threads; `reading` is palate's, which
unpacks PNGs ahead of Pillow. They and scoring take turns, and their medians are shown: a machine that gets slower slows
all. CPU seconds are those of all threads; a busy machine stretches the seconds, and these less.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from torchvision.transforms import functional as tv
from transformers import (
    BlipTextConfig,
    BlipTextModel,
    BlipVisionConfig,
    BlipVisionModel,
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
)

from palate.datasets.ahead import ordered_map
from palate.rewards.blip_keys import MLP_LAYERS, imagereward_keys
from palate.rewards.clip_keys import Heads
from palate.rewards.pixels import MEAN, STD
from palate.rewards.scorer import Scorer, open_scorer
from palate.rewards.scoring.batch import score_images
from palate.rewards.scoring.picture_file import read_picture

TEXT = "a photo of red green blue big small old new cat dog house tree car boat on under beside the sea sky"
WORDS = TEXT.split()
SIZE = 224


def write_pictures(folder: Path, count: int, side: int, form: str) -> None:
    """`count` pictures with the detail of photographs, and `images.jsonl` with four pictures a prompt."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (side // 32, side // 32, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32)
        noisy = (pixels + rng.normal(0, 4, pixels.shape)).clip(0, 255).astype(np.uint8)
        name = f"{number:05d}.{form}"
        Image.fromarray(noisy).save(folder / name, **({"quality": 90} if form == "jpg" else {"compress_level": 1}))
        words = np.random.default_rng(number // 4).choice(WORDS, 8)
        rows.append(json.dumps({"image": name, "prompt": " ".join(words)}))
    (folder / "images.jsonl").write_text("\n".join(rows) + "\n")


def write_weights(folder: Path) -> list[Scorer]:
    """PickScore, HPSv2.1 and ImageReward with tiny random weights in the official layouts."""
    torch.manual_seed(0)
    widths = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vocabulary = open_clip.tokenizer.SimpleTokenizer()
    renamed = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    tokens = {renamed.get(token, token): number for token, number in vocabulary.encoder.items()}
    CLIPTokenizer(vocab=tokens, merges=list(vocabulary.bpe_ranks)).save_pretrained(folder / "pickscore")
    vision = {**widths, "hidden_act": "gelu", "image_size": SIZE, "patch_size": 32, "projection_dim": 16}
    text = {**widths, "hidden_act": "gelu", "projection_dim": 16}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    CLIPModel(config).save_pretrained(folder / "pickscore")

    towers: dict[str, Any] = {
        "vision_cfg": {"image_size": SIZE, "layers": 2, "width": 32, "head_width": 16, "patch_size": 32},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
    torch.save({"state_dict": open_clip.CLIP(embed_dim=16, **towers).state_dict()}, folder / "hps.pt")

    (folder / "bert").mkdir()
    (folder / "bert/vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    torch.save(imagereward_state(len(WORDS) + 7), folder / "ImageReward.pt")
    return [
        open_scorer("pickscore", weights=folder / "pickscore"),
        open_scorer("hpsv2.1", weights=folder / "hps.pt", heads=Heads(text=2, vision=2)),
        open_scorer("imagereward", weights=folder / "ImageReward.pt", tokenizer=folder / "bert"),
    ]


def imagereward_state(vocabulary: int) -> dict[str, torch.Tensor]:
    """Two layers, 64 wide, under ImageReward's keys."""
    shared = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1}
    vision = BlipVisionModel(BlipVisionConfig(**shared, image_size=SIZE, patch_size=32))
    text = BlipTextConfig(**shared, vocab_size=vocabulary, encoder_hidden_size=64, is_decoder=True)
    state = {f"vision_model.{name}": tensor for name, tensor in vision.state_dict().items()}
    text_model = BlipTextModel(text, add_pooling_layer=False)
    state |= {f"text_encoder.{name}": tensor for name, tensor in text_model.state_dict().items()}
    for layer, outputs, inputs in zip(MLP_LAYERS, (64, 32, 16, 8, 1), (64, 64, 32, 16, 8), strict=True):
        state[f"mlp.layers.{layer}.weight"] = torch.randn(outputs, inputs) / inputs**0.5
        state[f"mlp.layers.{layer}.bias"] = torch.zeros(outputs)
    return {key: state[name] for key, name in imagereward_keys(2, 2).items()}


def loop(folder: Path, scorers: list[Scorer]) -> None:
    """One scorer after the other, one picture after the other."""
    rows = [json.loads(line) for line in (folder / "images.jsonl").read_text().splitlines()]
    for scorer in scorers:
        for row in rows:
            with Image.open(folder / row["image"]) as picture, torch.no_grad():
                pixels = letterbox(picture) if scorer.name.startswith("hps") else middle(picture)
                scorer.reward.score_pixels([row["prompt"]], pixels[None])  # type: ignore[attr-defined]


def middle(picture: Image.Image) -> torch.Tensor:
    """A picture as PickScore's and ImageReward's own transforms prepare it, with Pillow."""
    cut = tv.center_crop(tv.resize(picture.convert("RGB"), [SIZE], tv.InterpolationMode.BICUBIC), [SIZE])  # type: ignore[arg-type]
    return tv.normalize(tv.to_tensor(cut), list(MEAN), list(STD))


def letterbox(picture: Image.Image) -> torch.Tensor:
    """A square picture as hpsv2 prepares it: torchvision's transform of a tensor of the whole picture."""
    pixels = tv.resize(tv.to_tensor(picture.convert("RGB")), [SIZE, SIZE], tv.InterpolationMode.BICUBIC, antialias=True)
    return tv.normalize(pixels, list(MEAN), list(STD))


def through(folder: Path, workers: int, opened: Callable[[bytes], Image.Image]) -> None:
    """Read and decode each picture once and do nothing with it."""
    files = sorted(file for file in folder.iterdir() if file.suffix != ".jsonl")
    for _ in ordered_map(lambda file: opened(file.read_bytes()) and None, files, workers):
        pass


def pillow(data: bytes) -> Image.Image:
    """As everybody decodes a picture."""
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture


def measure(what: Callable[[], object]) -> tuple[float, float]:
    """Seconds and CPU seconds."""
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    what()
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--format", choices=("png", "jpg"), default="png")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3, help="of decoding and scoring in turns")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder, out = Path(name) / "pictures", Path(name) / "scores"
        folder.mkdir()
        write_pictures(folder, options.images, options.side, options.format)
        scorers = write_weights(Path(name))
        loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

        def ours(number: int) -> None:
            score_images(folder, scorers, out / str(number), batch_size=options.batch_size, workers=options.workers)

        rounds = [
            (
                measure(partial(through, folder, options.workers, pillow)),
                measure(partial(through, folder, options.workers, read_picture)),
                measure(partial(ours, number)),
            )
            for number in range(options.rounds)
        ]
        reached = [tuple(plain / whole for plain, whole in zip(one[0], one[2], strict=True)) for one in rounds]
        found: dict[str, Any] = {
            name: tuple(median(pair) for pair in zip(*times, strict=True))
            for name, times in zip(("decode", "reading", "palate"), zip(*rounds, strict=True), strict=True)
        }
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - loaded
        found["loop"] = measure(lambda: loop(folder, scorers))
    if options.json:
        print(json.dumps({**vars(options), **found, "reached": reached, "grown_mb": grown / 1000}))
        return
    print(f"{options.images} {options.format} pictures of {options.side} px, 3 scorers, {options.workers} threads")
    for label, (seconds, cpu) in found.items():
        print(f"{label:7} {seconds:7.2f} s {cpu:7.2f} CPU s {options.images / seconds:7.1f} pictures/s")
    print(f"palate is {found['loop'][0] / found['palate'][0]:.1f} times as fast as the loop")
    clock, cpu = (", ".join(f"{one:.0%}" for one in each) for each in zip(*reached, strict=True))
    print(f"it reaches {clock} of the speed of decoding, {cpu} by CPU seconds, +{grown / 1000:.0f} MB")


if __name__ == "__main__":
    main()
