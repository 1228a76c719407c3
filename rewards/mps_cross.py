"""MPS's cross model: a picture's tokens read those words of the prompt that the condition keeps, then each other.

Each block computes attention and a gated feed-forward side by side from one layer norm, and all heads share one key and
one value, as in PaLM (Chowdhery et al. 2022, https://arxiv.org/abs/2204.02311, section 2).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UserError


class ParallelBlock(nn.Module):
    """x + attention(norm(x), context) + narrow(silu(gate) * value) with [value, gate] = widen(norm(x)).

    Args:
        width: of the tokens.
        heads: of the queries; keys and values have one, of `head_width`.
        hidden: width of the feed-forward.
    """

    def __init__(self, width: int, heads: int, head_width: int, hidden: int) -> None:
        super().__init__()
        self.heads, self.head_width = heads, head_width
        self.norm = nn.LayerNorm(width)  # in the checkpoint its bias is a constant 0
        self.query = nn.Linear(width, heads * head_width, bias=False)
        self.key_value = nn.Linear(width, 2 * head_width, bias=False)
        self.attended = nn.Linear(heads * head_width, width, bias=False)
        self.widen = nn.Linear(width, 2 * hidden, bias=False)
        self.narrow = nn.Linear(hidden, width, bias=False)

    def read_other(self, tokens: Tensor, context: Tensor, keep: Tensor) -> Tensor:
        """Read those tokens of another sequence that are kept.

        Args:
            tokens: `[n, t, width]`.
            context: `[n, s, width]`; it is read as it is, without a norm.
            keep: bool `[n, s]`, at least one True in each row.
        """
        normed = self.norm(tokens)
        key, value = self.key_value(context).chunk(2, dim=-1)
        return tokens + self._attend(self._heads(normed), key, value, keep[:, None, None]) + self._feed(normed)

    def read_own(self, tokens: Tensor, angles: Tensor) -> Tensor:
        """Read one's own sequence `[n, t, width]`, with the rotary angles `[t, head_width / 2]` of its places."""
        normed = self.norm(tokens)
        key, value = self.key_value(normed).chunk(2, dim=-1)
        queries = rotate(self._heads(normed), angles)
        return tokens + self._attend(queries, rotate(key, angles), value, None) + self._feed(normed)

    def _heads(self, normed: Tensor) -> Tensor:
        """Queries, `[n, heads, t, head_width]`."""
        return self.query(normed).unflatten(-1, (self.heads, self.head_width)).transpose(1, 2)

    def _attend(self, queries: Tensor, key: Tensor, value: Tensor, keep: Tensor | None) -> Tensor:
        key, value = (one[:, None].expand(-1, self.heads, -1, -1) for one in (key, value))
        read = F.scaled_dot_product_attention(queries, key, value, attn_mask=keep)
        return self.attended(read.transpose(1, 2).flatten(2))

    def _feed(self, normed: Tensor) -> Tensor:
        value, gate = self.widen(normed).chunk(2, dim=-1)
        return self.narrow(F.silu(gate) * value)


class Layer(nn.Module):
    """Two blocks: a picture's tokens read `across` the prompt's, then `within` themselves."""

    def __init__(self, width: int, heads: int, head_width: int, hidden: int) -> None:
        super().__init__()
        self.across = ParallelBlock(width, heads, head_width, hidden)
        self.within = ParallelBlock(width, heads, head_width, hidden)

    def forward(self, images: Tensor, texts: Tensor, keep: Tensor, angles: Tensor) -> Tensor:
        return self.within.read_own(self.across.read_other(images, texts, keep), angles)


class CrossModel(nn.Module):
    """Layers, and what the rotary angles are made of.

    frequencies   of the angles, radians a place, float32 `[head_width / 2]` whatever the layers' dtype
    """

    def __init__(self, layers: int, width: int, heads: int, head_width: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(width, heads, head_width, hidden) for _ in range(layers))
        self.frequencies = nn.Buffer(torch.empty(head_width // 2))

    @classmethod
    def from_state(
        cls,
        state: Mapping[str, Tensor],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        source: str = "the state dict",
    ) -> CrossModel:
        """Build the frozen model around tensors under its own names; their shapes tell its dimensions.

        Raises:
            UserError: tensors are missing, unknown or of shapes that disagree.
        """
        try:
            width, hidden = state["layers.0.across.narrow.weight"].shape
            head_width = len(state["layers.0.across.key_value.weight"]) // 2
            heads = len(state["layers.0.across.query.weight"]) // head_width
            frequencies = state["frequencies"].float()
        except KeyError as error:
            raise UserError(f"{source} lacks the tensor for {error.args[0]}; is it the whole MPS?") from None
        layers = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("layers."))
        with torch.device("meta"):
            model = cls(layers, width, heads, head_width, hidden)
        try:
            model.load_state_dict(state, assign=True)
        except RuntimeError as error:  # torch lists every tensor that is missing or of another shape
            reason = str(error).strip().splitlines()[-1].strip()
            raise UserError(f"{source}: its tensors do not make MPS's cross model ({reason})") from None
        model.to(device, dtype)
        model.frequencies = nn.Buffer(frequencies.to(device))  # bfloat16 would turn the 257th token by 0.1 too far
        return model.requires_grad_(False).eval()

    def forward(self, images: Tensor, texts: Tensor, keep: Tensor) -> Tensor:
        """The class token when it has read the prompt, `[n, width]`.

        Args:
            images: a picture's tokens, the class token first, `[n, t, width]`.
            texts: its prompt's, `[n, s, width]`.
            keep: those of the prompt's that may be read, bool `[n, s]`, at least one in each row.
        """
        places = torch.arange(images.shape[1], dtype=torch.float32, device=images.device)
        angles = places[:, None] * self.frequencies
        for layer in self.layers:
            images = layer(images, texts, keep, angles)
        return images[:, 0]


def rotate(tokens: Tensor, angles: Tensor) -> Tensor:
    """Turn each pair (x_i, x_{i + d/2}) of tokens `[..., t, d]` by its angle of `[t, d / 2]`, in float32.

    Paper: Su et al. 2021, https://arxiv.org/abs/2104.09864; pairs as in GPT-NeoX.
    """
    first, second = tokens.float().chunk(2, dim=-1)
    sine, cosine = angles.sin(), angles.cos()
    turned = torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)
    return turned.to(tokens.dtype)
