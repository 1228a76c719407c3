"""HPSv3's network: Qwen2-VL whose state at one added token is read by a small head.

Checkpoint and reference: MizzenAI/HPSv3 on the hub, the package hpsv3 1.0.0 with transformers 4.45.2. Two things that
the reference does without saying so are part of what the weights were trained with:

- It gives every token its plain place in the sequence on all three axes of Qwen2-VL's rotary positions, the picture's
  tokens too. transformers would compute the picture's rows and columns.
- It casts the whole model to bfloat16, and with it the rotary frequencies: 0.8058 becomes 0.8047, which at place 900
  is a whole radian.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import Qwen2VLConfig, Qwen2VLModel

from ..errors import UserError
from .clip_tower import projected
from .qwen_pixels import FRAMES, MERGE, PATCH

EMBEDDING = "model.embed_tokens.weight"
_LAYOUT = {"qwen.visual.": "visual.", "qwen.language_model.": "model.", "head.": "rm_head."}
_UNUSED = frozenset({"lm_head.weight"})
_ADVICE = "give the folder or hub id of Qwen/Qwen2-VL-7B-Instruct as base"


class Hpsv3Network(nn.Module):
    """Token ids and patches to HPSv3's two outputs.

    `mark`, where it is not None, stands in for the embedding's row of the token that is read, `[width]`: the one row
    that is trained.

    Args:
        config: of Qwen2-VL, with as many tokens as the embedding has rows.
    """

    mark: nn.Parameter | None

    def __init__(self, config: Qwen2VLConfig) -> None:
        super().__init__()
        self.qwen = Qwen2VLModel(config)
        width = config.text_config.hidden_size  # type: ignore[union-attr]
        self.head = build_head(width)
        self.register_parameter("mark", None)

    def forward(self, ids: Tensor, shown: Tensor, places: Tensor, patches: Tensor, grid: Tensor) -> Tensor:
        """The mean of the score and the logarithm of its deviation, float32 `[n, 2]`; differentiable in patches.

        Args:
            ids: padded on the right, int64 `[n, t]`.
            shown: where the pictures' tokens go, bool `[n, t]`.
            places: of the token that is read, int64 `[n]`.
            patches: of all pictures, `[patches, 1176]`.
            grid: frames, rows and columns of patches of each picture, int64 `[n, 3]`.
        """
        language = self.qwen.language_model
        states = language.embed_tokens(ids)
        read = torch.arange(len(ids), device=ids.device), places
        if self.mark is not None:
            states = states.index_put(read, self.mark.to(states.dtype))
        seen = projected(self.qwen.visual(patches.to(states.dtype), grid_thw=grid))
        states = states.masked_scatter(shown[..., None], seen.to(states.dtype))
        positions = torch.arange(ids.shape[1], device=ids.device).expand(3, *ids.shape)
        # No mask: what is padded stands behind the token that is read, and attention looks back only.
        states = language(inputs_embeds=states, position_ids=positions, use_cache=False).last_hidden_state
        with torch.autocast(states.device.type, enabled=False):
            return self.head(states[read].float())


def build_head(width: int) -> nn.Sequential:
    """HPSv3's head on states of `width` numbers."""
    return nn.Sequential(
        nn.Linear(width, 1024), nn.ReLU(), nn.Dropout(0.05), nn.Linear(1024, 16), nn.ReLU(), nn.Linear(16, 2)
    )


def read_hpsv3_config(base: str, vocabulary: int | None = None, advice: str = _ADVICE) -> Qwen2VLConfig:
    """The configuration of Qwen2-VL in a folder or at a hub id, for an embedding of so many rows; None: of its own.

    Args:
        advice: what to do where it is none, as the end of the error.

    Raises:
        UserError: it cannot be read, or is another model's.
    """
    try:
        values, _ = Qwen2VLConfig.get_config_dict(base)
    except (OSError, ValueError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"the configuration of {base} cannot be read ({reason}); {advice}") from error
    if values.get("model_type") != "qwen2_vl":
        raise UserError(f"{base} has the configuration of a {values.get('model_type')}, not of a qwen2_vl; {advice}")
    config = Qwen2VLConfig.from_dict(values)
    vision = config.vision_config
    sizes = (vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size)  # type: ignore[union-attr]
    if sizes != (PATCH, MERGE, FRAMES):
        raise UserError(f"{base} cuts pictures by {sizes}, and HPSv3 by {(PATCH, MERGE, FRAMES)}; {advice}")
    if vocabulary is not None:
        config.text_config.vocab_size = vocabulary  # type: ignore[union-attr]
    return config


def official_name(name: str) -> str:
    """The key in HPSv3.safetensors, which has the names of transformers 4.45, of a tensor of `Hpsv3Network`."""
    ours = next(prefix for prefix in _LAYOUT if name.startswith(prefix))
    return _LAYOUT[ours] + name.removeprefix(ours)


def build_hpsv3(
    state: Mapping[str, Tensor],
    config: Qwen2VLConfig,
    dtype: torch.dtype = torch.float32,
    source: str = "the checkpoint",
) -> Hpsv3Network:
    """The network around the tensors of an official state dict, frozen; the head stays float32.

    Raises:
        UserError: tensors are missing or unexpected, or have other shapes than `config` says.
    """
    with init_empty_weights(include_buffers=False):  # no memory for weights; frequencies are in no checkpoint
        network = Hpsv3Network(config)
    keys = {name: official_name(name) for name in network.state_dict()}
    missing = [key for key in keys.values() if key not in state]
    unexpected = sorted(state.keys() - set(keys.values()) - _UNUSED)
    if missing or unexpected:
        raise UserError(
            f"{source} has not the tensors of HPSv3: {len(missing)} are missing and {len(unexpected)} unexpected "
            f"({', '.join([*missing[:2], *unexpected[:2]])}); give HPSv3.safetensors and the base that it was made from"
        )
    tensors = {name: state[key].to(torch.float32 if name.startswith("head.") else dtype) for name, key in keys.items()}
    try:
        network.load_state_dict(tensors, assign=True)
    except RuntimeError as error:  # torch lists every tensor whose shape is another
        reason = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"{source} and the base's configuration do not fit together ({reason})") from None
    _round_frequencies(network.qwen)
    return network.requires_grad_(False).eval()


def _round_frequencies(qwen: Qwen2VLModel) -> None:
    """Make the rotary frequencies bfloat16's, whatever the precision of the rest."""
    text, vision = qwen.language_model.rotary_emb, qwen.visual.rotary_pos_emb
    for rotary in (text, vision):
        rotary.inv_freq = nn.Buffer(rotary.inv_freq.bfloat16(), persistent=False)
    # The vision tower of 4.45 multiplies places and frequencies in the frequencies' precision; transformers does so up
    # to 5.16, and later, where this module takes the cosines too, in float32.
    if "x" in inspect.signature(vision.forward).parameters:
        qwen.visual.rotary_pos_emb = _CoarseAngles(vision.inv_freq)  # type: ignore[assignment]


class _CoarseAngles(nn.Module):
    """Cosines and sines of the vision tower's rotary positions, computed in bfloat16."""

    inv_freq: Tensor

    def __init__(self, frequencies: Tensor) -> None:
        super().__init__()
        self.register_buffer("inv_freq", frequencies, persistent=False)

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """For rows and columns `[patches, 2]`, two float32 `[patches, width of a head]`; x plays no part."""
        angles = (position_ids[..., None] * self.inv_freq).flatten(1)
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos().float(), angles.sin().float()
