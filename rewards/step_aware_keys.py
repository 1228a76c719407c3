"""The key layout of the published step-aware preference models, and the same tensors under palate's names.

Source: https://github.com/RockeyCoss/SPO, whose class keeps the whole under `model.`. The plain CLIP tensors have the
names of transformers' CLIPModel; `adaLN_modulation` is SiLU and a linear layer, `t_embedder.mlp` linear, SiLU, linear.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from ..errors import UserError
from .clip_keys import PLACES

_PREFIX = "model."
_MARK = "t_embedder.mlp.0.weight"
_BLOCK = re.compile(r"vision_model\.encoder\.layers\.(\d+)\.adaLN_modulation\.1\.(weight|bias)")
_ENDS = {
    f"{theirs}.{kind}": f"{ours}.{kind}"
    for theirs, ours in {
        "t_embedder.mlp.0": "widen",
        "t_embedder.mlp.2": "vector",
        "vision_model.adaLN_modulation.1": "pooled",
    }.items()
    for kind in ("weight", "bias")
}


class StepAwareState(NamedTuple):
    """A step-aware preference model's tensors.

    clip  under the names of transformers' CLIPModel
    time  under the names of `TimeModulation`
    """

    clip: dict[str, Tensor]
    time: dict[str, Tensor]


def split_step_aware(state: Mapping[str, Tensor], source: str = "the state dict") -> StepAwareState:
    """Tell what reads the time from the CLIP around it.

    Args:
        source: where the tensors are from, for the error message.

    Raises:
        UserError: nothing in it reads the time.
    """
    prefix = next((key.removesuffix(_MARK) for key in state if key.endswith(_MARK)), None)
    if prefix is None:
        raise UserError(
            f"{source} has no {_PREFIX}{_MARK}; it should hold a trained step-aware preference model. "
            "To start a new one, give PickScore's folder or hub id"
        )
    clip: dict[str, Tensor] = {}
    time: dict[str, Tensor] = {}
    for key, tensor in state.items():
        name = key.removeprefix(prefix)
        if block := _BLOCK.fullmatch(name):
            time[f"blocks.{block[1]}.{block[2]}"] = tensor
        elif name in _ENDS:
            time[_ENDS[name]] = tensor
        elif name not in PLACES:
            clip[name] = tensor
    return StepAwareState(clip, time)


def join_step_aware(state: StepAwareState) -> dict[str, Tensor]:
    """The tensors under their published names: `split_step_aware` turned around."""
    back = {ours: theirs for theirs, ours in _ENDS.items()}
    joined = dict(state.clip)
    for name, tensor in state.time.items():
        if name in back:
            joined[back[name]] = tensor
        else:
            _, number, kind = name.split(".")
            joined[f"vision_model.encoder.layers.{number}.adaLN_modulation.1.{kind}"] = tensor
    return {f"{_PREFIX}{name}": tensor for name, tensor in joined.items()}
