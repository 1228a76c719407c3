"""The trained part of a network: its parameters with `requires_grad`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from ..errors import PalateError, UserError


def trained_parameters(network: Module) -> dict[str, Parameter]:
    """Trained parameters by name.

    Raises UserError when there are none, or when one is not float32: with bf16 weights most updates are smaller than
    the distance to the next number and are lost.
    """
    trained = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
    if not trained:
        raise UserError("the network has no trainable parameters; check the adapter's targets")
    for name, weight in trained.items():
        if weight.dtype != torch.float32:
            kind = str(weight.dtype).removeprefix("torch.")
            raise UserError(
                f"trainable parameter {name} is {kind}, where small updates vanish; keep trained weights in float32 "
                "and set training.precision for the arithmetic"
            )
    return trained


@torch.no_grad()
def load_weights(parameters: Mapping[str, Tensor], weights: Mapping[str, Tensor], source: str) -> None:
    """Copy `weights` into the parameters of the same names; PalateError unless names and shapes all agree."""
    if differing := sorted(parameters.keys() ^ weights.keys()):
        raise PalateError(
            f"{source} does not fit the network: {len(differing)} parameters are in one of them only, such as "
            f"{differing[0]}; choose another output folder"
        )
    for name, parameter in parameters.items():
        if parameter.shape != weights[name].shape:
            raise PalateError(
                f"{source} does not fit the network: {name} is {list(weights[name].shape)} there and "
                f"{list(parameter.shape)} here; choose another output folder"
            )
        parameter.copy_(weights[name])
