"""CLIP's two towers: pictures and prompts to unit vectors, under PickScore, HPSv2, CLIPScore and the aesthetic head.

Paper: Radford et al. 2021, https://arxiv.org/abs/2103.00020.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPModel

from ..errors import UserError
from .clip_keys import Activation, Heads, clip_config, rename_open_clip
from .clip_prompts import ClipPrompts, open_clip_prompts, transformers_prompts
from .pretrained import load_pretrained
from .texts import text_features


@dataclass(frozen=True, eq=False)
class ClipTower:
    """A CLIP model in the layout of transformers and the reader of its prompts.

    Features are normalised in float32 whatever the model's dtype: bfloat16 would round a cosine of 0.27 to steps of
    0.002, and scores of two pictures of one prompt often differ by less.

    Args:
        model: frozen; its `logit_scale` is float32.
        prompts: reads prompts into token ids.
    """

    model: CLIPModel
    prompts: ClipPrompts

    @classmethod
    def open(
        cls,
        path: str | Path,
        activation: Activation,
        tokenizer: str | Path | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> ClipTower:
        """Load a CLIPModel that transformers wrote.

        Args:
            path: a folder or a hub id.
            activation: what the weights were trained with; the configuration must agree.
            tokenizer: a folder or a hub id; None where `path` holds it.
            device: where features are computed.
            dtype: of the towers.

        Raises:
            UserError: model or tokenizer cannot be loaded, a tensor is missing, or the activation is another.
        """
        advice = "give a folder or a hub id of a whole CLIP model"
        model = load_pretrained(CLIPModel, path, "a CLIP model", advice, dtype=torch.float32)
        for tower in (model.config.text_config, model.config.vision_config):
            if tower.hidden_act != activation:
                raise UserError(
                    f"{path} has the activation {tower.hidden_act} and this reward needs {activation}; "
                    "give the checkpoint that the reward was trained from"
                )
        return cls._from_model(model, tokenizer or path, device, dtype)

    @classmethod
    def from_open_clip(
        cls,
        state: Mapping[str, Tensor],
        heads: Heads,
        activation: Activation,
        tokenizer: str | Path | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        source: str = "the state dict",
    ) -> ClipTower:
        """Build the towers around the tensors of an open_clip model with a ViT.

        Args:
            state: open_clip's tensors under its names, of any float dtype.
            heads: attention heads of the two towers.
            activation: what the weights were trained with.
            tokenizer: a transformers tokenizer's folder or hub id; None for open_clip's own.
            device: where features are computed.
            dtype: of the towers.
            source: where the tensors are from, for error messages.

        Raises:
            UserError: tensors are missing, unknown or of shapes that disagree, or the tokenizer cannot be loaded.
        """
        return cls.from_state(rename_open_clip(state, source), heads, activation, tokenizer, device, dtype, source)

    @classmethod
    def from_state(
        cls,
        state: Mapping[str, Tensor],
        heads: Heads,
        activation: Activation,
        tokenizer: str | Path | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        source: str = "the state dict",
    ) -> ClipTower:
        """As `from_open_clip`, of tensors under the names of transformers' CLIPModel.

        Raises:
            UserError: as for `from_open_clip`.
        """
        with torch.device("meta"):  # no memory and no time for random weights that are thrown away
            model = CLIPModel(clip_config(state, heads, activation, source))
        try:
            model.load_state_dict(state, assign=True)
        except RuntimeError as error:  # torch lists every tensor that is missing or of another shape
            reason = str(error).strip().splitlines()[-1].strip()
            raise UserError(f"{source}: its tensors do not make a CLIP model ({reason})") from None
        for embeddings in (model.text_model.embeddings, model.vision_model.embeddings):
            positions = embeddings.position_embedding.weight
            places = torch.arange(len(positions), device=positions.device)[None]
            embeddings.position_ids = nn.Buffer(places, persistent=False)  # not in the state dict, so still on "meta"
        return cls._from_model(model, tokenizer, device, dtype)

    @classmethod
    def _from_model(
        cls, model: CLIPModel, tokenizer: str | Path | None, device: torch.device | str, dtype: torch.dtype
    ) -> ClipTower:
        embeddings = model.text_model.embeddings
        vocabulary, length = embeddings.token_embedding.num_embeddings, embeddings.position_embedding.num_embeddings
        if tokenizer is None:
            prompts = open_clip_prompts(length)
        else:
            prompts = transformers_prompts(tokenizer, vocabulary, length)
        if prompts.end >= vocabulary:
            raise UserError(
                f"the tokenizer's end token is {prompts.end} and the model knows only {vocabulary} tokens; "
                "give the model's own tokenizer"
            )
        exact = model.logit_scale.detach().float()
        model.to(device, dtype)  # type: ignore[arg-type]
        model.logit_scale = nn.Parameter(exact.to(device))  # bfloat16 would make 98.9 of a scale of 100
        model.requires_grad_(False).eval()
        return cls(model, prompts)

    @property
    def device(self) -> torch.device:
        """Where features are computed."""
        return self.model.logit_scale.device

    @property
    def image_size(self) -> int:
        """Pixels a side of the pictures that the vision tower takes."""
        return int(self.model.vision_model.embeddings.image_size)  # type: ignore[arg-type]

    @property
    def scale(self) -> Tensor:
        """exp(logit_scale), the factor that the model was trained to put on cosines, float32 `[]`."""
        return self.model.logit_scale.float().exp()

    def images(self, pixels: Tensor) -> Tensor:
        """Unit vectors of prepared pictures `[n, 3, h, w]`, float32 `[n, d]`; gradients reach the pixels."""
        with torch.autocast(self.device.type, enabled=False):  # a trainer's autocast must not change a reward
            pixels = pixels.to(self.device, self.model.visual_projection.weight.dtype)
            return _unit(projected(self.model.get_image_features(pixel_values=pixels)))

    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Unit vectors of prompts, float32 `[n, d]`; one that comes twice is encoded once."""
        return text_features(self, prompts, lambda different: self.text_ids(self.prompts.read(different)))

    def text_ids(self, ids: Tensor) -> Tensor:
        """Unit vectors of token ids `[n, t]`, float32 `[n, d]`, read at each row's first end token.

        transformers pools by its configuration's `eos_token_id`, which in CLIP's first conversions is a wrong 2 that
        stands for "the largest id", and with a tokenizer of another size points at nothing. The tokenizer knows better.
        """
        ends = self.ends(ids)
        with torch.autocast(self.device.type, enabled=False):
            hidden = self.model.text_model(input_ids=ids.to(self.device)).last_hidden_state
            rows = torch.arange(len(ids), device=self.device)
            return _unit(self.model.text_projection(hidden[rows, ends]))

    def ends(self, ids: Tensor) -> Tensor:
        """The place of the first end token in each row of token ids `[n, t]`, int64 `[n]`.

        Raises:
            ValueError: a row has none.
        """
        found = ids == self.prompts.end
        if not found.any(dim=-1).all():
            raise ValueError("a row of token ids has no end token")
        return found.int().argmax(dim=-1).to(self.device)

    def text_tokens(self, ids: Tensor) -> Tensor:
        """Every token of ids `[n, t]` in the shared space, `[n, t, d]`, in the tower's dtype and not normalised."""
        with torch.autocast(self.device.type, enabled=False):
            return self.model.text_projection(self.model.text_model(input_ids=ids.to(self.device)).last_hidden_state)

    def image_tokens(self, pixels: Tensor) -> Tensor:
        """The class token and every patch of pictures `[n, 3, h, w]` in the shared space, `[n, 1 + patches, d]`.

        In the tower's dtype, not normalised, and without the layer norm that the pooled feature has before its
        projection; gradients reach the pixels.
        """
        with torch.autocast(self.device.type, enabled=False):
            pixels = pixels.to(self.device, self.model.visual_projection.weight.dtype)
            return self.model.visual_projection(self.model.vision_model(pixel_values=pixels).last_hidden_state)

    def cosines(self, prompts: Sequence[str], pixels: Tensor) -> Tensor:
        """The cosine between each prompt and its picture, float32 `[n]`."""
        return (self.texts(prompts) * self.images(pixels)).sum(dim=-1)


def projected(output: Any) -> Tensor:
    """The projected feature in what `get_image_features` returns: a tensor, or since transformers 5 `pooler_output`.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(output, Tensor):
        return output
    feature = getattr(output, "pooler_output", None)
    if not isinstance(feature, Tensor):
        raise TypeError(f"got a {type(output).__name__} without a feature; is this version of transformers supported?")
    return feature


def _unit(features: Tensor) -> Tensor:
    return F.normalize(features.float(), dim=-1)
