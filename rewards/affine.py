"""Linear layers with nothing but dropout between them are one affine map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor


def collapse_layers(state: Mapping[str, Tensor], layers: Sequence[str]) -> tuple[Tensor, Tensor]:
    """`layers`, in the order in which they are applied, as one weight `[m, d]` and bias `[m]`, float64.

    In float64, so that the map is nearer to the exact one than the layers in turn.

    Args:
        layers: their names in `state`, before `.weight` and `.bias`.

    Raises:
        KeyError: a tensor is missing.
        RuntimeError: the layers do not fit on each other.
    """
    weight, bias = state[f"{layers[0]}.weight"].double(), state[f"{layers[0]}.bias"].double()
    for layer in layers[1:]:
        w, b = state[f"{layer}.weight"].double(), state[f"{layer}.bias"].double()
        weight, bias = w @ weight, w @ bias + b
    return weight, bias
