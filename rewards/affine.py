"""Linear layers with nothing but dropout between them are one affine map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor


def require_head(state: Mapping[str, Tensor], layers: Sequence[str], width: int) -> None:
    """Hold the layers of a head against each other: `width` features go in and one number comes out.

    Args:
        layers: see `collapse_layers`.

    Raises:
        KeyError: a tensor is missing.
        ValueError: one does not fit on the one before it. torch itself would stretch a bias of one number.
    """
    for layer in layers:
        weight, bias = (tuple(state[f"{layer}.{kind}"].shape) for kind in ("weight", "bias"))
        outputs = weight[:1] if layer != layers[-1] else (1,)
        if weight != (*outputs, width) or bias != outputs:
            raise ValueError(f"{layer} has a weight of {weight} and a bias of {bias} behind {width} values")
        (width,) = outputs


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
