"""A diffusers LoRA in the key layout of kohya's sd-scripts, which ComfyUI and the web UIs open.

A key is `lora_unet_` and the layer's path with dots as underscores, then `.lora_down.weight` `[r, in]`,
`.lora_up.weight` `[out, r]` and `.alpha`; the layer's weight changes by alpha / r * up @ down. The path is the layer's
in the network that sd-scripts trains: diffusers' own UNet for SD1 and SD2, and Stability's original one for SDXL
(input_blocks, middle_block, output_blocks) and SD3 (joint_blocks, with q, k and v in one matrix). Sources: sd-scripts
`networks/lora.py` and `networks/lora_sd3.py`; ComfyUI `comfy/lora.py`, which takes `lora_unet_` before any path of the
original network, SD3's too.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import UserError
from ..training.disk import PARTIAL, full_disk_explained

_LORA_FILE = "pytorch_lora_weights.safetensors"
_FAMILIES = ("sd1", "sd2", "sdxl", "sd3")
_HALVES = {"lora_A": "down", "lora.down": "down", "lora_B": "up", "lora.up": "up"}  # peft's and diffusers' words
_KEY = re.compile(r"(.+)\.(lora_A|lora\.down|lora_B|lora\.up)\.weight")
_SD3_PATH = re.compile(r"transformer_blocks\.(\d+)\.(.+)")
_VERSION = {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}  # sd-scripts' names, by which UIs sort files

_RESNET = {
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_SDXL_OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_SD3_OUTSIDE = {
    "pos_embed.proj": "x_embedder.proj",
    "context_embedder": "context_embedder",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
}
_SD3_BLOCK = {
    "attn.to_out.0": "x_block.attn.proj",
    "attn.to_add_out": "context_block.attn.proj",
    "attn2.to_out.0": "x_block.attn2.proj",
    "norm1.linear": "x_block.adaLN_modulation.1",
    "norm1_context.linear": "context_block.adaLN_modulation.1",
    "ff.net.0.proj": "x_block.mlp.fc1",
    "ff.net.2": "x_block.mlp.fc2",
    "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2",
}
_SD3_FUSED = {
    "x_block.attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "context_block.attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
}


class _Lora(NamedTuple):
    down: Tensor  # [r, in] or [r, in, kh, kw]
    up: Tensor  # [out, r] or [out, r, 1, 1]
    alpha: float


def save_kohya(lora_folder: Path, family: str, file: Path, *, layers_per_block: int = 2) -> Path:
    """Write the LoRA that diffusers saved in `lora_folder` to `file`, whole or not at all; returns `file`.

    `layers_per_block` is the UNet's, by which SDXL's blocks are numbered: 2 for all but tiny models.

    Raises UserError when the folder holds no LoRA, a damaged one, or one that this layout cannot hold, and PalateError
    when the disk is full.
    """
    source = lora_folder / _LORA_FILE
    try:
        with safe_open(source, framework="pt") as opened:
            weights = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
            settings = json.loads((opened.metadata() or {}).get("lora_adapter_metadata", "{}"))
    except FileNotFoundError:
        raise UserError(f"{lora_folder} holds no LoRA: there is no {_LORA_FILE} in it") from None
    except (SafetensorError, ValueError) as error:
        raise UserError(f"{source} is not a whole safetensors file ({error}); write it again") from None
    converted = to_kohya(weights, family, _alphas(weights, settings), layers_per_block=layers_per_block)
    about = {"format": "pt"} | ({"ss_base_model_version": _VERSION[family]} if family in _VERSION else {})
    partial = file.with_name(PARTIAL + file.name)
    with full_disk_explained(f"writing {file}"):
        try:
            # Not safetensors' own writing, which hides from us that the disk is full.
            partial.write_bytes(save(converted, metadata=about))
            partial.replace(file)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    return file


def to_kohya(
    weights: Mapping[str, Tensor], family: str, alphas: Mapping[str, float] | None = None, *, layers_per_block: int = 2
) -> dict[str, Tensor]:
    """A diffusers LoRA state dict in kohya's layout, of exactly the same effect.

    Args:
        weights: as `save_lora_weights` writes it: `unet.` or `transformer.`, the layer's path, and either
            `lora_A.weight` and `lora_B.weight` or `lora.down.weight` and `lora.up.weight`.
        family: `sd1`, `sd2`, `sdxl` or `sd3`.
        alphas: alpha by layer (`unet.mid_block...to_q`); a layer that is not named has its rank, a scale of 1.
        layers_per_block: as in `save_kohya`.

    Raises UserError for weights that this layout cannot hold, such as a text encoder's or DoRA's.
    """
    if family not in _FAMILIES:
        raise UserError(f"there is no kohya layout for family {family!r}; there is one for {', '.join(_FAMILIES)}")
    loras: Iterable[tuple[str, _Lora]] = _layers(weights, "transformer" if family == "sd3" else "unet", alphas or {})
    if family == "sdxl":
        loras = ((_sdxl_path(path, layers_per_block), lora) for path, lora in loras)
    elif family == "sd3":
        loras = _sd3_layers(loras)
    converted: dict[str, Tensor] = {}
    for path, lora in loras:
        name = "lora_unet_" + path.replace(".", "_")
        converted[f"{name}.lora_down.weight"] = lora.down.contiguous()
        converted[f"{name}.lora_up.weight"] = lora.up.contiguous()
        converted[f"{name}.alpha"] = torch.tensor(lora.alpha, dtype=torch.float32)
    return converted


def _layers(weights: Mapping[str, Tensor], network: str, alphas: Mapping[str, float]) -> Iterator[tuple[str, _Lora]]:
    halves: dict[str, dict[str, Tensor]] = {}
    for key, weight in weights.items():
        found = _KEY.fullmatch(key)
        if found is None or not key.startswith(f"{network}."):
            raise UserError(f"kohya's layout: {key} is not a LoRA weight of the {network}; only those can be written")
        halves.setdefault(found[1], {})[_HALVES[found[2]]] = weight
    for layer, pair in halves.items():
        if len(pair) < 2:
            raise UserError(f"kohya's layout: {layer} has only one of its two LoRA matrices")
        alpha = alphas.get(layer, float(pair["down"].shape[0]))
        yield layer.removeprefix(f"{network}."), _Lora(pair["down"], pair["up"], alpha)


def _alphas(weights: Mapping[str, Tensor], settings: Mapping[str, Any]) -> dict[str, float]:
    """Each layer's alpha from the LoRA settings that diffusers keeps in the file; the rank where it keeps none."""
    downs = {found[1]: key for key in weights if (found := _KEY.fullmatch(key)) and _HALVES[found[2]] == "down"}
    return {layer: _alpha(layer, weights[key].shape[0], settings) for layer, key in downs.items()}


def _alpha(layer: str, rank: int, settings: Mapping[str, Any]) -> float:
    network = layer.split(".")[0]
    own = settings.get(f"{network}.alpha_pattern") or {}
    pattern = next((pattern for pattern in own if re.match(rf"(.*\.)?({pattern})$", layer)), None)
    alpha = own[pattern] if pattern else settings.get(f"{network}.lora_alpha", rank)
    # Rank-stabilised LoRA (arXiv 2312.03732) scales by alpha / sqrt(r), all others by alpha / r.
    return float(alpha * math.sqrt(rank) if settings.get(f"{network}.use_rslora") else alpha)


def _sdxl_path(path: str, layers: int) -> str:
    """A layer of diffusers' UNet in the original one, which counts its blocks in one row."""
    match path.split("."):
        case ["down_blocks", block, "downsamplers", "0", "conv"]:
            return f"input_blocks.{(layers + 1) * (int(block) + 1)}.0.op"
        case ["down_blocks", block, kind, layer, *leaf]:
            return f"input_blocks.{(layers + 1) * int(block) + int(layer) + 1}.{_part(kind, leaf, path)}"
        case ["mid_block", "attentions", "0", *leaf]:
            return f"middle_block.1.{'.'.join(leaf)}"
        case ["mid_block", "resnets", layer, *leaf]:
            return f"middle_block.{2 * int(layer)}.{_known(_RESNET, '.'.join(leaf), path)}"
        case ["up_blocks", block, "upsamplers", "0", "conv"]:
            return f"output_blocks.{(layers + 1) * int(block) + layers}.2.conv"
        case ["up_blocks", block, kind, layer, *leaf]:
            return f"output_blocks.{(layers + 1) * int(block) + int(layer)}.{_part(kind, leaf, path)}"
        case _:
            return _known(_SDXL_OUTSIDE, path, path)


def _part(kind: str, leaf: list[str], path: str) -> str:
    """A block holds a residual layer, then an attention layer where it has one."""
    name = ".".join(leaf)
    return f"0.{_known(_RESNET, name, path)}" if kind == "resnets" else f"1.{name}"


def _known(names: Mapping[str, str], name: str, path: str) -> str:
    if name not in names:
        raise UserError(f"kohya's layout has no name for the layer {path}; is the LoRA of another family?")
    return names[name]


def _sd3_layers(loras: Iterable[tuple[str, _Lora]]) -> Iterator[tuple[str, _Lora]]:
    """The layers of diffusers' MMDiT in the original one, in which q, k and v of a stream are one layer."""
    fused: dict[str, list[_Lora | None]] = {}
    for path, lora in loras:
        found = _SD3_PATH.fullmatch(path)
        if found is None:
            yield _known(_SD3_OUTSIDE, path, path), _shift_first(path, lora)
            continue
        block, leaf = found.groups()
        home = next((home for home, parts in _SD3_FUSED.items() if leaf in parts), None)
        if home is None:
            yield f"joint_blocks.{block}.{_known(_SD3_BLOCK, leaf, path)}", _shift_first(leaf, lora)
        else:
            parts = fused.setdefault(f"joint_blocks.{block}.{home}", [None, None, None])
            parts[_SD3_FUSED[home].index(leaf)] = lora
    for path, parts in fused.items():
        yield path, _fuse(parts)


def _shift_first(leaf: str, lora: _Lora) -> _Lora:
    """Where a modulation has two parts, the original orders its rows shift, scale; diffusers scale, shift."""
    two_parts = leaf in ("norm_out.linear", "norm1_context.linear") and lora.up.shape[0] == 2 * lora.down.shape[1]
    return lora._replace(up=torch.cat(lora.up.chunk(2)[::-1])) if two_parts else lora


def _fuse(parts: list[_Lora | None]) -> _Lora:
    """The LoRAs of q, k and v as one of [q; k; v]: down matrices stacked, up matrices on the diagonal.

    Ranks add up, so each part's own scale goes into its up matrix and the whole has a scale of 1. An absent part is
    left at zero.
    """
    present = [part for part in parts if part]
    width, rank = present[0].up.shape[0], sum(part.down.shape[0] for part in present)
    up, column = present[0].up.new_zeros(len(parts) * width, rank), 0
    for row, part in enumerate(parts):
        if part:
            own = part.down.shape[0]
            up[row * width : (row + 1) * width, column : column + own] = part.up * (part.alpha / own)
            column += own
    return _Lora(torch.cat([part.down for part in present]), up, float(rank))
