"""The key layout of BLIP's own checkpoints, as ImageReward.pt has it, put into the words of transformers.

BLIP's vision tower is named as timm names its ViT; its text tower (MED) as BERT with cross-attention in each layer.
Source: https://github.com/salesforce/BLIP (`models/vit.py`, `models/med.py`), https://github.com/THUDM/ImageReward.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import TypeVar

from ..errors import UserError

Value = TypeVar("Value")

VISION, TEXT = "vision_model.", "text_encoder."  # the names in transformers' BlipForImageTextRetrieval
MLP_LAYERS = (0, 2, 4, 6, 7)  # the places between are dropout

# Tensors that ImageReward's checkpoint carries and its forward pass does not read.
UNUSED = frozenset(
    {
        "blip.text_encoder.embeddings.position_ids",
        *(f"blip.{side}_proj.{kind}" for side in ("vision", "text") for kind in ("weight", "bias")),
    }
)

_VISION_ENDS = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj.weight": "embeddings.patch_embedding.weight",
    "patch_embed.proj.bias": "embeddings.patch_embedding.bias",
    "norm.weight": "post_layernorm.weight",
    "norm.bias": "post_layernorm.bias",
}
_VISION_BLOCK = {
    "norm1": "layer_norm1",
    "attn.qkv": "self_attn.qkv",
    "attn.proj": "self_attn.projection",
    "norm2": "layer_norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_TEXT_ENDS = (
    "embeddings.word_embeddings.weight",
    "embeddings.position_embeddings.weight",
    "embeddings.LayerNorm.weight",
    "embeddings.LayerNorm.bias",
)
_ATTENTION = ("self.query", "self.key", "self.value", "output.dense", "output.LayerNorm")
_TEXT_LAYER = (
    *(f"attention.{part}" for part in _ATTENTION),
    *(f"crossattention.{part}" for part in _ATTENTION),
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
)


def imagereward_keys(vision_layers: int, text_layers: int) -> dict[str, str]:
    """Every key that ImageReward's forward pass needs -> its name here.

    The towers' keys get transformers' names behind `VISION` and `TEXT`; the keys of the `mlp` stay as they are. No two
    keys share a name, so the dict can be turned around.
    """
    names = {f"blip.visual_encoder.{key}": VISION + name for key, name in _VISION_ENDS.items()}
    names |= {f"blip.text_encoder.{key}": TEXT + key for key in _TEXT_ENDS}
    for kind in ("weight", "bias"):
        for layer in range(vision_layers):
            for part, name in _VISION_BLOCK.items():
                key = f"blip.visual_encoder.blocks.{layer}.{part}.{kind}"
                names[key] = f"{VISION}encoder.layers.{layer}.{name}.{kind}"
        for layer in range(text_layers):
            for part in _TEXT_LAYER:
                key = f"encoder.layer.{layer}.{part}.{kind}"
                names[f"blip.text_encoder.{key}"] = TEXT + key
        names |= {key: key for key in (f"mlp.layers.{layer}.{kind}" for layer in MLP_LAYERS)}
    return names


def rename_imagereward(state: Mapping[str, Value], source: str = "the checkpoint") -> dict[str, Value]:
    """The tensors of an official ImageReward state dict under the names of `imagereward_keys`, `UNUSED` ones dropped.

    Raises:
        UserError: keys are missing or unexpected; it names `source` and a few of them.
    """
    vision_layers = count_layers(state, "blip.visual_encoder.blocks")
    text_layers = count_layers(state, "blip.text_encoder.encoder.layer")
    names = imagereward_keys(vision_layers, text_layers)
    missing = [key for key in names if key not in state]
    unexpected = [key for key in state if key not in names and key not in UNUSED]
    if missing or unexpected:
        wrong = [_some(missing, "missing"), _some(unexpected, "unexpected")]
        raise UserError(
            f"{source} has not the keys of ImageReward.pt: {' and '.join(filter(None, wrong))}; "
            "give the file of THUDM/ImageReward or one with its keys"
        )
    return {name: state[key] for key, name in names.items()}


def count_layers(keys: Collection[str], prefix: str) -> int:
    """One more than the highest N of the keys `prefix.N.…`; at least 1, so that a tower without layers lacks keys."""
    pattern = re.compile(rf"{re.escape(prefix)}\.(\d+)\.")
    return max((int(found[1]) + 1 for key in keys if (found := pattern.match(key))), default=1)


def _some(keys: list[str], what: str, shown: int = 3) -> str:
    """`2 keys missing (a, b)`, or nothing where there are no keys."""
    if not keys:
        return ""
    names = ", ".join(keys[:shown]) + (", …" if len(keys) > shown else "")
    return f"{len(keys)} key{'s' * (len(keys) > 1)} {what} ({names})"
