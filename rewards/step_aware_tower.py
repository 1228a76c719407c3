"""A CLIP whose vision tower knows how noisy its picture's origin was: adaptive layer norm, identity at the start.

Paper: Liang et al. 2024 (SPO), https://arxiv.org/abs/2406.04314; adaptive layer norm with gates: Peebles and Xie 2022
(DiT), https://arxiv.org/abs/2212.09748.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import CLIPModel

from ..errors import UserError

FREQUENCIES = 128
_LONGEST = 10_000.0  # the slowest sinusoid's period is nearly 2 pi times that
_DEVIATION = 0.02


def sinusoids(times: Tensor) -> Tensor:
    """cos(t w_i), then sin(t w_i), with w_i = 10000^(-i / 128), i = 0 ... 127; float32 `[n, 256]` of times `[n]`."""
    exponents = torch.arange(FREQUENCIES, dtype=torch.float32, device=times.device) / FREQUENCIES
    angles = times.float()[:, None] * torch.exp(-math.log(_LONGEST) * exponents)
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


class TimeModulation(nn.Module):
    """What a time says to a vision tower.

    widen, vector  from sinusoids to the time's vector: linear, SiLU, linear
    blocks         from SiLU(vector) to each block's shift, scale and gate of the attention, then of the MLP
    pooled         from SiLU(vector) to the shift and scale of the pooled feature
    """

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.widen = nn.Linear(2 * FREQUENCIES, width)
        self.vector = nn.Linear(width, width)
        self.blocks = nn.ModuleList(nn.Linear(width, 6 * width) for _ in range(blocks))
        self.pooled = nn.Linear(width, 2 * width)

    @classmethod
    def fresh(cls, width: int, blocks: int, seed: int) -> TimeModulation:
        """One that changes nothing: weights and biases 0, the gates' biases 1. `seed` draws the vector's weights."""
        with torch.device("meta"):  # no time for random weights that are thrown away
            time = cls(width, blocks)
        time.to_empty(device="cpu").requires_grad_(False)
        generator = torch.Generator().manual_seed(seed)
        for layer in (time.widen, time.vector, *time.blocks, time.pooled):
            assert isinstance(layer, nn.Linear)
            drawn = layer in (time.widen, time.vector)
            layer.weight.normal_(0, _DEVIATION, generator=generator) if drawn else layer.weight.zero_()
            layer.bias.zero_()
            if layer.out_features == 6 * width:
                layer.bias.view(6, width)[[2, 5]] = 1
        return time

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], width: int, blocks: int, source: str) -> TimeModulation:
        """One around tensors under its own names.

        Raises:
            UserError: tensors are missing, unknown, or of shapes that do not fit the tower.
        """
        with torch.device("meta"):
            time = cls(width, blocks)
        try:
            time.load_state_dict(state, assign=True)
        except RuntimeError as error:  # torch lists every tensor that is missing or of another shape
            reason = str(error).strip().splitlines()[-1].strip()
            raise UserError(f"{source}: its tensors do not make a step-aware preference model ({reason})") from None
        return time.requires_grad_(False)

    def forward(self, times: Tensor) -> Tensor:
        """SiLU of the time's vector, `[n, width]`, of times `[n]`."""
        return F.silu(self.vector(F.silu(self.widen(sinusoids(times).to(self.widen.weight.dtype)))))


class StepAwareClip(nn.Module):
    """exp(logit_scale) * cos(prompt, picture at a time). Features are normalised in float32, under autocast too.

    Args:
        end: the id of the end token, where a prompt's feature is read.
    """

    def __init__(self, model: CLIPModel, time: TimeModulation, end: int) -> None:
        super().__init__()
        self.model = model
        self.time = time
        self.end = end
        self.recompute = False

    def recompute_activations(self) -> None:
        """Compute the blocks' activations a second time in the backward pass, which saves their memory."""
        self.recompute = True  # of the vision tower, whose blocks are called part by part
        self.model.text_model.gradient_checkpointing_enable({"use_reentrant": False})

    def forward(self, ids: Tensor, pixels: Tensor, owners: Tensor, times: Tensor) -> Tensor:
        """Scores, float32 `[n]`.

        Args:
            ids: of b prompts, `[b, t]`.
            pixels: n prepared pictures, `[n, 3, h, w]`.
            owners: whose of the b prompts each picture is, `[n]`.
            times: of each picture, `[n]`.
        """
        hidden = self.model.text_model(input_ids=ids).last_hidden_state
        ends = (ids == self.end).int().argmax(dim=-1)
        read = self.model.text_projection(hidden[torch.arange(len(ids), device=ids.device), ends])
        texts, pictures = (F.normalize(side.float(), dim=-1) for side in (read, self.images(pixels, times)))
        return self.model.logit_scale.exp() * (pictures * texts[owners]).sum(dim=-1)

    def images(self, pixels: Tensor, times: Tensor) -> Tensor:
        """Projected features of pictures `[n, 3, h, w]` at times `[n]`, `[n, d]`, not normalised."""
        vision = self.model.vision_model
        time = self.time(times.to(pixels.device))
        tokens = vision.pre_layrnorm(vision.embeddings(pixels))
        run: Any = partial(checkpoint, through, use_reentrant=False) if self.recompute and self.training else through
        for block, linear in zip(vision.encoder.layers, self.time.blocks, strict=True):
            spoken = linear(time)[:, None].chunk(6, dim=-1)
            tokens = run(block, tokens, *spoken)
        shift, scale = self.time.pooled(time).chunk(2, dim=-1)
        return self.model.visual_projection(modulate(vision.post_layernorm(tokens[:, 0]), shift, scale))


def through(
    block: Any,
    tokens: Tensor,
    shift: Tensor,
    scale: Tensor,
    gate: Tensor,
    shift2: Tensor,
    scale2: Tensor,
    gate2: Tensor,
) -> Tensor:
    """Tokens `[n, t, width]` after one block of CLIP, modulated by six vectors `[n, 1, width]`.

    x <- x + gate * attention(modulate(norm1(x))), then the same of the MLP with the last three.
    """
    tokens = tokens + gate * block.self_attn(modulate(block.layer_norm1(tokens), shift, scale))[0]
    return tokens + gate2 * block.mlp(modulate(block.layer_norm2(tokens), shift2, scale2))


def modulate(normed: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x * (1 + scale) + shift."""
    return normed * (1 + scale) + shift
