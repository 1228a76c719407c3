"""What the benchmarks run on: preference pairs, and full-size checkpoints with random weights."""

from __future__ import annotations

import inspect
import io
import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from PIL import Image

from palate.datasets.group import Group
from palate.datasets.parquet import write_groups
from palate.datasets.shapes.prompts import draw_prompts, draw_scene
from palate.datasets.shapes.world import SIZE, render
from palate.t2i.models.architectures import ARCHITECTURES, Architecture
from palate.t2i.models.checkpoint import FAMILIES, find_checkpoint
from palate.t2i.models.model import TextToImageModel

FULL_SIZE = {"sd15": "sd1.5", "sdxl": "sdxl", "sd3-medium": "sd3-medium"}
"""The benchmarks' names of architectures that are built with random weights."""

_CLIP_TOKENS, _T5_TOKENS = 77, 256


def write_pairs(folder: Path, count: int, resolution: int) -> None:
    """Write `count` pairs of square pictures: the shapes world's own PNGs, or noisy JPEGs of larger size."""
    rng = np.random.default_rng(0)

    def groups() -> Iterator[Group]:
        for i, prompt in enumerate(draw_prompts(count, seed=0, held_out=False)):
            pictures = tuple(_encoded(render(draw_scene(prompt, rng)), resolution, rng) for _ in range(2))
            yield Group(key=f"pair-{i}", prompt=prompt.text, candidates=pictures, labels=(1.0, 0.0))

    write_groups(groups(), folder)


def _encoded(picture: Image.Image, resolution: int, rng: np.random.Generator) -> bytes:
    buffer = io.BytesIO()
    if resolution == SIZE:
        picture.save(buffer, "PNG")
        return buffer.getvalue()
    # Noise gives the file about the bytes of a photograph of its size, and the decoder as much to do.
    pixels = np.asarray(picture.resize((resolution, resolution), Image.Resampling.BICUBIC), dtype=np.float32)
    noisy = pixels + rng.normal(0, 8, pixels.shape)
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def open_checkpoint(name: str, dtype: torch.dtype, device: torch.device, scratch: Path) -> TextToImageModel:
    """A checkpoint by its path or built-in name, or a full-size one with random weights by its name in `FULL_SIZE`.

    `scratch` takes the configuration files of the latter.
    """
    if name not in FULL_SIZE:
        return TextToImageModel(find_checkpoint(name), dtype, device)
    architecture = ARCHITECTURES[FULL_SIZE[name]]
    _write_configs(architecture, scratch / name)
    return RandomWeights(architecture, scratch / name, dtype, device)


class RandomWeights(TextToImageModel):
    """A checkpoint of real dimensions whose parts are made on the device with random weights instead of being read."""

    def __init__(self, architecture: Architecture, folder: Path, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(find_checkpoint(str(folder)), dtype, device)
        self.architecture = architecture

    @cached_property
    def text(self) -> Any:
        """Random text encoders, and tokenizers that know single letters only: every prompt is padded to full length."""
        encoders = {name: self._encoder(name) for name in self.family.text_encoders}
        kinds = {"text_encoder_3": _t5_tokenizer}
        tokenizers = {
            name: kinds.get(encoder, _clip_tokenizer)()
            for encoder, name in zip(self.family.text_encoders, self.family.tokenizers, strict=True)
        }
        kind = getattr(diffusers, self.family.pipeline)
        required = [p.name for p in inspect.signature(kind).parameters.values() if p.default is p.empty]
        return kind(**dict.fromkeys(required) | encoders | tokenizers)

    def _encoder(self, name: str) -> torch.nn.Module:
        assert self.architecture.text_encoders is not None
        part = self.architecture.text_encoders[name]
        kind: Any = getattr(transformers, part.kind)
        with self.device:
            encoder = kind(kind.config_class.from_dict(dict(part.config)))
        return encoder.to(self.dtype).requires_grad_(False).eval()

    def _load_part(self, kind: Any, name: str, dtype: torch.dtype) -> Any:
        with self.device:
            part = kind.from_config(dict(self.checkpoint.config(name)))
        return torch.nn.Module.to(part, dtype=dtype)  # `ModelMixin.to` warns those who cast real weights


def _write_configs(architecture: Architecture, folder: Path) -> None:
    """A diffusers folder with everything but weights and tokenizers."""
    family = FAMILIES[architecture.family]
    assert architecture.vae is not None
    parts = {family.network: architecture.network, "vae": architecture.vae}
    index: dict[str, Any] = {name: ["diffusers", part.kind] for name, part in parts.items()}
    index |= {name: ["transformers", part.kind] for name, part in (architecture.text_encoders or {}).items()}
    files: dict[str, Any] = {f"{name}/config.json": dict(part.config) for name, part in parts.items()}
    files["scheduler/scheduler_config.json"] = dict(architecture.scheduler)
    files["model_index.json"] = {"_class_name": family.pipeline, **index}
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))


def _clip_tokenizer() -> transformers.CLIPTokenizer:
    letters = [f"{chr(code)}{end}" for code in range(33, 127) for end in ("", "</w>")]
    tokens = [*letters, "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=_CLIP_TOKENS)


def _t5_tokenizer() -> transformers.T5Tokenizer:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -8.0)]
    pieces += [(chr(code), -10.0) for code in range(33, 127)]
    return transformers.T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=_T5_TOKENS)
