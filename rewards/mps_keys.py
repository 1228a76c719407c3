"""The key layout of MPS's checkpoint, and the same tensors under the names of palate's modules.

Source: https://github.com/Kwai-Kolors/MPS (`trainer/models`), whose modules the released file was saved from, and
https://github.com/RE-N-Y/imscore (`mps`) for its safetensors port, which has `mps.` before every key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from ..errors import UserError
from .clip_keys import PLACES

_MARK = "cross_model.layers.0.0.fn.norm.weight"
_BLOCK = re.compile(r"layers\.(\d+)\.([01]\.fn\..+)")
_PARTS = {
    "0.fn.norm.weight": "across.norm.weight",
    "0.fn.norm.bias": "across.norm.bias",
    "0.fn.to_q.weight": "across.query.weight",
    "0.fn.to_kv.weight": "across.key_value.weight",
    "0.fn.to_out.weight": "across.attended.weight",
    "0.fn.ff.0.weight": "across.widen.weight",
    "0.fn.ff.2.weight": "across.narrow.weight",
    "1.fn.norm.weight": "within.norm.weight",
    "1.fn.norm.bias": "within.norm.bias",
    "1.fn.fused_attn_ff_proj.weight": "within.fused.weight",
    "1.fn.attn_out.weight": "within.attended.weight",
    "1.fn.ff_out.1.weight": "within.narrow.weight",
}
_FREQUENCIES = "1.fn.rotary_emb.inv_freq"  # the same constants in every layer


class MPSState(NamedTuple):
    """MPS's tensors.

    clip    under the names of transformers' CLIPModel
    cross   under the names of `CrossModel`
    """

    clip: dict[str, Tensor]
    cross: dict[str, Tensor]


def split_mps(state: Mapping[str, Tensor], source: str = "the state dict") -> MPSState:
    """Tell the two towers from the cross model, and its fused projections into query, key and value, feed-forward.

    Args:
        source: where the tensors are from, for the error message.

    Raises:
        UserError: a key is not MPS's, or one is missing that tells where a fused projection is split.
    """
    prefix = next((key.removesuffix(_MARK) for key in state if key.endswith(_MARK)), None)
    if prefix is None:
        raise UserError(f"{source} has no {_MARK}; it should hold MPS, as model.safetensors of RE-N-Y/mpsv1 does")
    clip: dict[str, Tensor] = {}
    cross: dict[str, Tensor] = {}
    for key, tensor in state.items():
        tower, _, name = key.removeprefix(prefix).partition(".")
        block = _BLOCK.fullmatch(name)
        if tower == "model":
            clip[name] = tensor
        elif tower == "cross_model" and block and block[2] in _PARTS:
            cross[f"layers.{block[1]}.{_PARTS[block[2]]}"] = tensor
        elif tower == "cross_model" and block and block[2] == _FREQUENCIES:
            cross["frequencies"] = tensor
        else:
            raise UserError(f"{source}: {key} is no key of MPS; is it the right file?")
    clip = {name: tensor for name, tensor in clip.items() if name not in PLACES}
    return MPSState(clip, _split_fused(cross, source))


def _split_fused(cross: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The rows of `within.fused`, those of the queries first, as three tensors."""
    split: dict[str, Tensor] = {}
    for name, tensor in cross.items():
        layer, is_fused, _ = name.partition("within.fused.weight")
        if not is_fused:
            split[name] = tensor
            continue
        try:
            queries = cross[f"{layer}within.attended.weight"].shape[1]
            keys = len(cross[f"{layer}across.key_value.weight"])
        except KeyError as error:
            raise UserError(f"{source} lacks the tensor for {error.args[0]}; is it the whole MPS?") from None
        thirds = tensor.tensor_split([queries, queries + keys])
        for part, rows in zip(("query", "key_value", "widen"), thirds, strict=True):
            split[f"{layer}within.{part}.weight"] = rows.contiguous()
    return split
