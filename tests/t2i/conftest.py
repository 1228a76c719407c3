"""Tiny checkpoints of every family, and preference groups of rendered shapes."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import yaml

from palate.cli import main
from palate.datasets.group import Group
from palate.datasets.parquet import write_groups
from palate.datasets.shapes.prompts import draw_prompts, draw_scene
from palate.datasets.shapes.world import render


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def picture_bytes(picture, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format)
    return buffer.getvalue()


def make_groups(count: int, seed: int = 0) -> list[Group]:
    """Pairs: the second picture shows the prompt, the first the next group's prompt; the second is preferred."""
    rng = np.random.default_rng(seed)
    prompts = draw_prompts(count, seed, held_out=False)
    groups = []
    for i, prompt in enumerate(prompts):
        wrong = render(draw_scene(prompts[(i + 1) % count], rng))
        right = render(draw_scene(prompt, rng))
        pictures = (picture_bytes(wrong), picture_bytes(right))
        groups.append(Group(key=f"g{i}", prompt=prompt.text, candidates=pictures, labels=(0.0, 1.0)))
    return groups


@pytest.fixture(scope="session")
def shape_groups():
    """`shape_groups(count, seed=0)`: see `make_groups`."""
    return make_groups


@pytest.fixture(scope="session")
def pairs(tmp_path_factory) -> Path:
    """A Parquet folder of 24 pairs."""
    folder = tmp_path_factory.mktemp("pairs")
    write_groups(iter(make_groups(24)), folder / "groups")
    return folder / "groups"


def _save_tiny_sd(folder: Path, width: int, prediction_type: str) -> Path:
    """A Stable Diffusion folder with the tiny SDXL's autoencoder and tokenizer and a random UNet."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from palate.t2i.models.checkpoint import find_checkpoint

    source = StableDiffusionXLPipeline.from_pretrained(find_checkpoint("tiny-sdxl").path, unet=None)
    tokenizer = source.tokenizer
    torch.manual_seed(0)
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, prediction_type=prediction_type
    )
    StableDiffusionPipeline(
        vae=source.vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_sd1(tmp_path_factory) -> Path:
    """An SD1.x folder: epsilon prediction, text width 768 as CLIP-L's."""
    return _save_tiny_sd(tmp_path_factory.mktemp("sd1"), 768, "epsilon")


@pytest.fixture(scope="session")
def tiny_sd2(tmp_path_factory) -> Path:
    """An SD2.x folder: v prediction, text width 1024 as OpenCLIP-H's."""
    return _save_tiny_sd(tmp_path_factory.mktemp("sd2"), 1024, "v_prediction")


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def told(self) -> str:
        """The one line that says what is wrong."""
        lines = [line for line in self.err.splitlines() if line.startswith("palate: ")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        assert len(lines[0]) < 600, lines[0]
        return lines[0]


@pytest.fixture(scope="module")
def warm_cache(tmp_path_factory) -> Path:
    """One cache for all tests that do not harm it."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def train(monkeypatch, capsys, tmp_path, pairs, warm_cache) -> Callable[..., Ended]:
    """`train("section.key=value", ...)` runs `palate train` on a tiny recipe, in a folder of its own, off the hub."""
    monkeypatch.setattr(
        "huggingface_hub.constants.HF_HUB_OFFLINE", True
    )  # a name that is no folder is looked for there
    monkeypatch.chdir(tmp_path)
    quick = {"steps": 2, "batch_size": 2, "micro_batch": 2, "log_every": 1, "checkpoint_every": 1, "workers": 0}
    recipe = {
        "model": {"path": "tiny-sdxl", "lora": {"rank": 2}},
        "data": {"path": str(pairs), "cache": str(warm_cache)},
        "method": {"name": "diffusion_dpo", "beta": 2000},
        "training": quick | {"validate_every": None, "sample_every": None, "trackers": []},
        "output": {"folder": "run", "kohya": False},
    }
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))

    def call(*overrides: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["palate", "train", "recipe.yaml", *overrides])
        with pytest.raises(SystemExit) as end:
            main()
        return Ended(int(end.value.code or 0), *capsys.readouterr())

    return call
