"""HPSv3, a human-preference reward on Qwen2-VL-7B that knows how sure it is.

Paper: Ma et al. 2025, https://arxiv.org/abs/2508.03789; weights and reference: MizzenAI/HPSv3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import UserError
from .hpsv3_model import EMBEDDING, Hpsv3Network, build_hpsv3, read_hpsv3_config
from .hpsv3_prompts import Hpsv3Prompts, open_hpsv3_prompts
from .qwen_pixels import MERGE, PATCH, fit, patches
from .reward import Failure, prepared, report_failure, require_pairs
from .weights import find_weights, load_tensors

REPOSITORY, FILE = "MizzenAI/HPSv3", "HPSv3.safetensors"
BASE = "Qwen/Qwen2-VL-7B-Instruct"
PIXELS = 200_704  # of every picture, about: 448 x 448


@dataclass(frozen=True, eq=False)
class Hpsv3:
    """How much people would like a picture for its prompt: about -2 to 13 over generated pictures.

    The model gives a normal distribution of the score; `score` is its mean.

    Pictures keep their shape, so that there is no tensor of prepared pictures: `score` takes any number and batches
    them itself. Gradients reach prepared pictures through `outputs`.

    Args:
        network: Qwen2-VL and the head, frozen.
        prompts: reads prompts into token ids.
        batch_size: rows of one forward pass, of about 900 tokens each.
    """

    network: Hpsv3Network
    prompts: Hpsv3Prompts
    batch_size: int = 8
    name: str = "hpsv3"
    modality: Literal["image"] = "image"
    differentiable: bool = False
    batched: bool = True

    def prepare(self, picture: Image.Image) -> Tensor:
        """The picture in about 448 x 448 pixels of its own shape, normalised, float32 `[3, h, w]`.

        Raises:
            OSError, ValueError: the picture cannot be decoded, or one side is more than 200 times the other.
        """
        return fit(picture, PIXELS)

    def outputs(self, prompts: Sequence[str], pixels: Sequence[Tensor]) -> Tensor:
        """The score's mean and the logarithm of its deviation, float32 `[n, 2]`; gradients reach the pixels.

        Args:
            prompts: n of them.
            pixels: prepared pictures, n of `[3, h, w]`, moved to the model's device.

        Raises:
            ValueError: there are not as many prompts as pictures, or a prompt holds a mark of Qwen2-VL's.
        """
        require_pairs(prompts, pixels)
        if not prompts:
            return torch.empty(0, 2)
        device = self.network.qwen.device
        grid = torch.tensor([[1, image.shape[1] // PATCH, image.shape[2] // PATCH] for image in pixels])
        counts = (grid.prod(dim=1) // MERGE**2).tolist()
        rows = [torch.tensor(self.prompts.read(prompt, count)) for prompt, count in zip(prompts, counts, strict=True)]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # with any token: nothing sees it
        ids = ids.to(device)
        shown, places = ids == self.prompts.image, (ids == self.prompts.reward).int().argmax(dim=1)
        seen = torch.cat([patches(image.to(device)) for image in pixels])
        with torch.autocast(device.type, enabled=False):  # a trainer's autocast must not change the reward
            return self.network(ids, shown, places, seen, grid.to(device))

    def judge(
        self, prompts: Sequence[str], media: Sequence[Image.Image], failures: list[Failure] | None = None
    ) -> np.ndarray:
        """The score's mean and the logarithm of its deviation, float32 `[n, 2]`, without gradients.

        NaN with its reason for a picture that cannot be decoded and a prompt that holds a mark of Qwen2-VL's.

        Raises:
            ValueError: there are not as many prompts as pictures.
        """
        require_pairs(prompts, media)
        values = np.full((len(prompts), 2), np.nan, dtype=np.float32)
        reasons = {index: fault for index, prompt in enumerate(prompts) if (fault := self.prompts.fault(prompt))}

        def run(batch: dict[int, Tensor]) -> None:
            with torch.no_grad():
                outputs = self.outputs([prompts[index] for index in batch], list(batch.values()))
            values[list(batch)] = outputs.cpu().numpy()
            reasons.update({index: "the reward returned NaN" for index in batch if np.isnan(values[index, 0])})

        # Prompts of a length go together, so that little is padded.
        order = sorted((index for index in range(len(prompts)) if index not in reasons), key=lambda i: len(prompts[i]))
        batch: dict[int, Tensor] = {}
        for index, pixels in prepared(self.prepare, media, order, reasons):
            batch[index] = pixels
            if len(batch) == self.batch_size:
                run(batch)
                batch = {}
        if batch:
            run(batch)
        for index in sorted(reasons):
            report_failure(Failure(index, reasons[index]), failures)
        return values

    def score(
        self, prompts: Sequence[str], media: Sequence[Image.Image], failures: list[Failure] | None = None
    ) -> np.ndarray:
        """The means, float32 `[n]`; NaN with its reason where `judge` gives NaN.

        Raises:
            ValueError: there are not as many prompts as pictures.
        """
        return self.judge(prompts, media, failures)[:, 0]


def open_hpsv3(
    weights: str | Path | None = None,
    base: str | Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Hpsv3:
    """Load HPSv3 from the official checkpoint or one with its keys, of any size.

    Args:
        weights: HPSv3.safetensors, a folder that holds it, or None for the hub's MizzenAI/HPSv3 (17 GB).
        base: a folder or hub id with the configuration and the tokenizer of the model that it was made from; its
            weights are not needed. None for Qwen/Qwen2-VL-7B-Instruct.
        device: where scoring happens.
        dtype: of Qwen2-VL; the published numbers are bfloat16's.

    Raises:
        UserError: a file cannot be found or read, or does not hold HPSv3.
    """
    file = find_weights(weights, REPOSITORY, FILE)
    source = str(Path(base).expanduser()) if base is not None else BASE
    state = load_tensors(file)
    if EMBEDDING not in state:
        raise UserError(f"{file} has no {EMBEDDING}; is it {FILE} of {REPOSITORY}?")
    vocabulary = len(state[EMBEDDING])
    prompts = open_hpsv3_prompts(source, vocabulary)
    network = build_hpsv3(state, read_hpsv3_config(source, vocabulary), dtype, str(file))
    return Hpsv3(network.to(device), prompts)
