"""A reward-model recipe: which network to start from, which preferences, which loss, and where the result goes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from ...training.config import TrainingConfig

Fraction = Annotated[float, Field(ge=0, lt=1)]
_STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Heads(BaseModel):
    """Attention heads of CLIP's two towers, which an open_clip file does not tell; the defaults are ViT-H-14's."""

    model_config = _STRICT
    text: PositiveInt = 16
    vision: PositiveInt = 16


class TrainedBlocks(BaseModel):
    """How many of each tower's last blocks are trained; None: all of the tower, embeddings included."""

    model_config = _STRICT
    text: PositiveInt | None = None
    vision: PositiveInt | None = None


class ClipConfig(BaseModel):
    """A CLIP whose scaled cosine is the reward."""

    model_config = _STRICT
    kind: Literal["clip"] = "clip"
    path: str = Field(
        description="a folder or hub id of transformers' CLIPModel, or a .pt or .safetensors of open_clip"
    )
    layout: Literal["pickscore", "hpsv2"] = Field(
        default="pickscore", description="which scorer's preprocessing is used, and which opens the result"
    )
    tokenizer: str | None = Field(
        default=None, description="a folder or hub id; None: beside the model, or open_clip's"
    )
    heads: Heads = Heads()
    train: TrainedBlocks = TrainedBlocks()
    max_scale: PositiveFloat | None = Field(default=None, description="upper bound of exp(logit_scale); HPSv2's is 100")


class BlipConfig(BaseModel):
    """BLIP with a linear head on its picture-grounded text encoder, as ImageReward is built."""

    model_config = _STRICT
    kind: Literal["blip"]
    path: str | None = Field(
        default=None,
        description="a .pt, .pth or .safetensors with ImageReward's keys, or BLIP's own, which gets a fresh head; "
        "None: ImageReward from the hub",
    )
    config: str | None = Field(default=None, description="a med_config.json, for a text tower not built like BERT")
    tokenizer: str | None = Field(default=None, description="a folder with BERT's vocab.txt; None: bert-base-uncased")
    frozen: Fraction = Field(default=0.7, description="share of each tower's blocks that stay frozen, from below")
    dropout: Fraction = Field(default=0.1, description="of the text tower; BLIP's own is 0.1")


class Lora(BaseModel):
    """Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685): W + (alpha / rank) B A, merged into W in the result."""

    model_config = _STRICT
    rank: PositiveInt = 64
    alpha: PositiveFloat | None = Field(default=None, description="None: equal to the rank, a scale of 1")
    dropout: Fraction = 0.0


class VlmConfig(BaseModel):
    """Qwen2-VL with HPSv3's head, which gives two numbers; the head is always trained."""

    model_config = _STRICT
    kind: Literal["vlm"]
    path: str | None = Field(
        default=None,
        description="a folder or hub id of Qwen2-VL, which gets a fresh head, or an HPSv3.safetensors; "
        "None: HPSv3 from the hub",
    )
    base: str | None = Field(
        default=None,
        description="for HPSv3's weights: a folder or hub id with the configuration and the tokenizer of its Qwen2-VL; "
        "None: beside the weights, or Qwen/Qwen2-VL-7B-Instruct",
    )
    lora: Lora | None = Field(
        default=Lora(),
        description="on the language model's linear layers; None: all of it is trained but its token embedding",
    )
    train_vision: bool = Field(default=False, description="whether the whole vision tower is trained")


class DataConfig(BaseModel):
    """The preference groups."""

    model_config = _STRICT
    path: str = Field(description="groups in any format that `palate data convert` reads, or a hub id")
    format: str = "auto"
    split: str | None = None
    ties: Literal["keep", "drop"] = Field(
        default="keep", description="groups of nothing but ties; a loss that cannot use them leaves them out anyway"
    )
    holdout: Fraction = Field(
        default=0.0, description="share of prompts kept for validation, chosen by the prompt's hash"
    )
    holdout_split: str | None = Field(default=None, description="or: a split of the source that validates")
    cache: str = Field(default="cache", description="folder for what has to be converted first")

    @model_validator(mode="after")
    def _one_holdout(self) -> DataConfig:
        if self.holdout and self.holdout_split:
            raise ValueError("data.holdout and data.holdout_split exclude each other: take one")
        return self


class RewardModel(BaseModel):
    """Training on comparisons; see `losses`."""

    model_config = _STRICT
    name: Literal["reward_model"]
    loss: Literal["pickscore", "hpsv2", "imagereward", "btt", "uncertainty"]
    k: float | None = Field(default=None, gt=1, description="of btt: how readily people call it a tie; 5 if left out")

    @model_validator(mode="after")
    def _k_is_of_btt(self) -> RewardModel:
        if self.k is not None and self.loss != "btt":
            raise ValueError(f"method.k has no effect on loss {self.loss}; leave it out, or take loss btt")
        return self


class OutputConfig(BaseModel):
    """The run folder."""

    model_config = _STRICT
    folder: str


class RewardRecipe(BaseModel):
    """One reward model's training run."""

    model_config = _STRICT
    model: Annotated[ClipConfig | BlipConfig | VlmConfig, Field(discriminator="kind")]
    data: DataConfig
    method: RewardModel
    training: TrainingConfig = TrainingConfig()
    output: OutputConfig

    @model_validator(mode="after")
    def _only_what_has_an_effect(self) -> RewardRecipe:
        if self.training.compile:
            raise ValueError("training.compile has no effect on reward models; leave it out")
        if self.method.loss == "uncertainty" and self.model.kind != "vlm":
            raise ValueError(
                f"method.loss uncertainty needs a model that says how sure it is, and a {self.model.kind} gives one "
                "number; take model.kind vlm, or loss imagereward"
            )
        return self
