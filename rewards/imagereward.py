"""ImageReward v1.0, a human-preference reward on BLIP-large.

Paper: Xu et al. 2023, https://arxiv.org/abs/2304.05977; weights and reference: https://github.com/THUDM/ImageReward.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel
from transformers.activations import ACT2FN

from ..errors import UserError
from ..training.disk import hashed
from .affine import collapse_layers, require_head
from .blip_keys import MLP_LAYERS, TEXT, VISION, count_layers, rename_imagereward
from .blip_prompts import BlipPrompts, open_blip_prompts
from .pixels import centre_crop, centre_crop_tensor, round_half
from .reward import ScoresPixels, require_pairs
from .weights import find_weights, load_tensors

MEAN, STD = 0.16717362830052426, 1.0333394966054072  # the authors' constants: rewards become about standard normal
REPOSITORY, FILE = "THUDM/ImageReward", "ImageReward.pt"
TRAINED_FILE, CONFIG_FILE = "imagereward.safetensors", "med_config.json"  # of a reward-model run
_CONFIG = {"num_attention_heads": int, "hidden_act": str, "layer_norm_eps": float}  # what is taken of a med_config.json
_LAYERS = [f"mlp.layers.{layer}" for layer in MLP_LAYERS]  # of the head
_HEAD_WIDTH = 64  # of every attention head in BLIP and BERT; no tensor's shape tells it


@dataclass(frozen=True, eq=False)
class ImageReward(ScoresPixels):
    """How much people would like a picture for its prompt: about standard normal over generated pictures.

    One forward pass serves n rows of (prompt, picture). Prompts are read up to 35 word pieces.

    Args:
        vision: ViT, frozen.
        text: BERT with cross-attention on the picture's tokens, frozen.
        weight, bias: the reward of the text tower's first output is `weight @ x + bias`, float32 `[d]` and `[]`.
        prompts: reads prompts into token ids.
        size: pixels a side of the pictures that `vision` reads; 224 in the official checkpoint.
        settings: what decides the numbers and was not asked for: what lay beside the weights.
    """

    vision: BlipVisionModel
    text: BlipTextModel
    weight: Tensor
    bias: Tensor
    prompts: BlipPrompts
    size: int = 224
    settings: Mapping[str, Any] = field(default_factory=dict)
    name: str = "imagereward"
    modality: Literal["image"] = "image"
    differentiable: bool = True

    def prepare(self, picture: Image.Image) -> Tensor:
        """The normalised middle square of a picture, float32 `[3, 224, 224]`; resized by torch's 8-bit bicubic filter.

        Raises:
            OSError, ValueError: the picture cannot be decoded.
        """
        return centre_crop(picture, self.size, round_half)  # the reference cuts with torchvision's CenterCrop

    def prepare_tensor(self, images: Tensor) -> Tensor:
        """The same of float images `[n, 3, H, W]` in [0, 1]; differentiable."""
        return centre_crop_tensor(images, self.size, round_half)

    def score_pixels(self, prompts: Sequence[str], pixels: Tensor) -> Tensor:
        """One float32 per row, `[n]`; gradients reach the pixels.

        Args:
            prompts: n of them.
            pixels: prepared pictures `[n, 3, h, w]`; moved to the model's device.

        Raises:
            ValueError: there are not as many prompts as pictures.
        """
        require_pairs(prompts, pixels)
        device = self.weight.device
        ids, mask = self.prompts.read(prompts, device)
        with torch.autocast(device.type, enabled=False):  # a trainer's autocast must not change the reward
            tokens = self.vision(pixel_values=pixels.to(device)).last_hidden_state
            # `is_decoder` belongs in the config, which builds the cross-attention, and not in this call, where it would
            # turn on a causal mask. All the picture's tokens are seen, so that they need no mask.
            output = self.text(input_ids=ids, attention_mask=mask, encoder_hidden_states=tokens)
            return output.last_hidden_state[:, 0].float() @ self.weight + self.bias


def open_imagereward(
    weights: str | Path | None = None,
    config: str | Path | None = None,
    tokenizer: str | Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> ImageReward:
    """Load ImageReward from the official checkpoint or one with its keys, of any size.

    Args:
        weights: a `.pt` or `.safetensors` file, a folder that holds ImageReward.pt or is a reward-model run's `final`,
            or None for the hub's THUDM/ImageReward (1.8 GB).
        config: a `med_config.json` for a text tower that is not built like BERT: its heads, activation and epsilon are
            taken; all other dimensions are those of the tensors. None for the one beside the weights, if any.
        tokenizer: a folder with BERT's `vocab.txt` or `tokenizer.json`; None for the one beside the weights, and where
            there is none for the hub's bert-base-uncased.
        device: where scoring happens.
        dtype: of the two towers; the published numbers are float32's.

    Raises:
        UserError: a file cannot be found or read, or does not hold ImageReward.
    """
    file = find_weights(weights, REPOSITORY, FILE, TRAINED_FILE)
    settings: dict[str, Any] = {}
    built = read_config(config)
    if config is None and (beside := file.with_name(CONFIG_FILE)).is_file():
        built = read_config(beside)
        settings["config"] = {key: built[key] for key in _CONFIG if key in built}
    renamed = rename_imagereward(load_tensors(file), str(file))
    try:
        vision, text = build_towers(renamed, built)
        require_head(renamed, _LAYERS, text.config.hidden_size)
    except (RuntimeError, ValueError) as error:  # torch lists every tensor whose shape disagrees with the others'
        reason = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"{file}: its tensors do not fit together ({reason}); is it ImageReward.pt?") from None
    weight, bias = collapse(renamed)
    if tokenizer is None and any(file.with_name(name).is_file() for name in ("vocab.txt", "tokenizer.json")):
        tokenizer, settings["tokenizer"] = file.parent, _texts_digest(file.parent)
    prompts = open_blip_prompts(tokenizer or "bert-base-uncased", text.config.vocab_size, "imagereward")
    return ImageReward(
        vision=vision.to(device, dtype),  # type: ignore[arg-type]
        text=text.to(device, dtype),  # type: ignore[arg-type]
        weight=weight.to(device),
        bias=bias.to(device),
        prompts=prompts,
        size=vision.embeddings.image_size,  # type: ignore[arg-type]
        settings=settings,
    )


def _texts_digest(folder: Path) -> str:
    """Of the vocabulary and of the JSON files beside it, which may say how a tokenizer reads."""
    state = hashlib.sha256()
    for file in sorted([*folder.glob("*.json"), *folder.glob("vocab.txt")]):
        state.update(file.name.encode("utf-8", "surrogateescape") + b"\0")
        hashed(file, state)
    return f"sha256 {state.hexdigest()}"


def collapse(state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The MLP and the normalisation as one affine map, computed in float64: weight `[d]` and bias `[]`, float32.

    The five linear layers have only dropout between them, and (raw - MEAN) / STD is affine too.
    """
    weight, bias = collapse_layers(state, _LAYERS)
    return (weight[0] / STD).float(), ((bias[0] - MEAN) / STD).float()


def build_towers(
    state: Mapping[str, Tensor], med_config: Mapping[str, Any] | None = None
) -> tuple[BlipVisionModel, BlipTextModel]:
    """The two towers around the tensors of a renamed state dict, frozen, in the tensors' own dtype and device.

    Raises:
        UserError: a tower's width holds no whole number of heads, or its position embeddings are no square's.
        RuntimeError: the tensors' shapes disagree.
    """
    vision_config, text_config = _vision_config(state), _text_config(state, med_config or {})
    with torch.device("meta"):  # no memory and no time for random weights that are thrown away
        vision = BlipVisionModel(vision_config)
        text = BlipTextModel(text_config, add_pooling_layer=False)
    for tower, prefix in ((vision, VISION), (text, TEXT)):
        own = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        tower.load_state_dict(own, assign=True)
        tower.requires_grad_(False).eval()
    positions = state[f"{TEXT}embeddings.position_embeddings.weight"]
    ids = torch.arange(len(positions), device=positions.device)[None]  # no state dict of today holds them
    text.embeddings.register_buffer("position_ids", ids, persistent=False)
    return vision, text


def _vision_config(state: Mapping[str, Tensor]) -> BlipVisionConfig:
    width, _, patch, _ = state[f"{VISION}embeddings.patch_embedding.weight"].shape
    patches = state[f"{VISION}embeddings.position_embedding"].shape[1] - 1
    side = math.isqrt(patches)
    if side**2 != patches:
        raise UserError(f"the vision tower has {patches} patches, which make no square; is it ImageReward.pt?")
    return BlipVisionConfig(
        hidden_size=width,
        intermediate_size=len(state[f"{VISION}encoder.layers.0.mlp.fc1.weight"]),
        num_hidden_layers=count_layers(state, f"{VISION}encoder.layers"),
        num_attention_heads=_heads(width, "vision"),
        image_size=side * patch,
        patch_size=patch,
        layer_norm_eps=1e-6,  # timm's; transformers' default is another
    )


def _text_config(state: Mapping[str, Tensor], med_config: Mapping[str, Any]) -> BlipTextConfig:
    vocabulary, width = state[f"{TEXT}embeddings.word_embeddings.weight"].shape
    return BlipTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        encoder_hidden_size=state[f"{TEXT}encoder.layer.0.crossattention.self.key.weight"].shape[1],
        intermediate_size=len(state[f"{TEXT}encoder.layer.0.intermediate.dense.weight"]),
        num_hidden_layers=count_layers(state, f"{TEXT}encoder.layer"),
        num_attention_heads=med_config.get("num_attention_heads") or _heads(width, "text"),
        max_position_embeddings=len(state[f"{TEXT}embeddings.position_embeddings.weight"]),
        hidden_act=med_config.get("hidden_act", "gelu"),
        layer_norm_eps=med_config.get("layer_norm_eps", 1e-12),
        is_decoder=True,  # else no cross-attention is built
    )


def _heads(width: int, tower: str) -> int:
    heads, rest = divmod(width, _HEAD_WIDTH)
    if rest:
        raise UserError(f"the {tower} tower is {width} wide, which is no multiple of {_HEAD_WIDTH}; is it BLIP's?")
    return heads


def read_config(config: str | Path | None) -> dict[str, Any]:
    """The values of a `med_config.json`; none where there is no file.

    Raises:
        UserError: the file cannot be read, or a value that is used is of the wrong kind.
    """
    if config is None:
        return {}
    try:
        values = json.loads(Path(config).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError) as error:  # the last for the home of an unknown user
        raise UserError(f"{config} cannot be read as JSON ({error}); give med_config.json or leave it out") from error
    if not isinstance(values, dict):
        raise UserError(f"{config} holds no JSON object; give med_config.json or leave it out")
    for key, kind in _CONFIG.items():
        if not isinstance(values.get(key, kind()), kind):
            raise UserError(f"{config}: {key} is {values[key]!r}, which is no {kind.__name__}")
    if values.get("hidden_act", "gelu") not in ACT2FN:
        raise UserError(
            f"{config}: hidden_act {values['hidden_act']!r} is unknown; transformers has {', '.join(ACT2FN)}"
        )
    return values
