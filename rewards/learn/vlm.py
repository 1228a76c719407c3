"""A trainable Qwen2-VL with HPSv3's head: starts as a Qwen2-VL or as HPSv3, ends as what HPSv3's scorer opens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText

from ...errors import UserError
from ..hpsv3 import BASE, FILE, PIXELS, REPOSITORY
from ..hpsv3_model import EMBEDDING, Hpsv3Network, build_head, build_hpsv3, official_name, read_hpsv3_config
from ..hpsv3_prompts import Hpsv3Prompts, open_hpsv3_prompts
from ..pretrained import load_pretrained
from ..qwen_pixels import MERGE, PATCH, fit, patches
from ..weights import find_weights, load_tensors, save_tensors
from .adapter import add_adapter, merged
from .recipe import VlmConfig

_START = "model.path of kind vlm is a Qwen2-VL's folder or hub id, or an HPSv3.safetensors; a CLIP is of kind clip"


class VlmNetwork(nn.Module):
    """HPSv3's two outputs for pictures of any shapes.

    Args:
        prompts: says where in a question the picture stands, which is before the prompt and so the same for all.
    """

    def __init__(self, model: Hpsv3Network, prompts: Hpsv3Prompts) -> None:
        super().__init__()
        self.model = model
        self.image, self.reward = prompts.image, prompts.reward
        self.place = prompts.read("", 1).index(prompts.image)

    def forward(self, words: Mapping[str, Tensor], pixels: Sequence[Tensor] | Tensor, owners: Tensor) -> Tensor:
        """See `Learner`: the score's mean and the logarithm of its deviation, `[n, 2]`."""
        sides = [(image.shape[1] // PATCH, image.shape[2] // PATCH) for image in pixels]
        rows = [
            torch.cat((ids[: self.place], ids.new_full((high * wide // MERGE**2,), self.image), ids[self.place + 1 :]))
            for ids, (high, wide) in zip(words["ids"][owners], sides, strict=True)
        ]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)  # with any token: nothing sees it
        places = (ids == self.reward).int().argmax(dim=1)
        grid = torch.tensor([(1, *side) for side in sides], device=ids.device)
        return self.model(ids, ids == self.image, places, torch.cat([patches(image) for image in pixels]), grid)


@dataclass(frozen=True, eq=False)
class VlmLearner:
    """A Qwen2-VL in training; see `Learner`."""

    network: VlmNetwork
    prompts: Hpsv3Prompts

    def prepare(self, picture: Image.Image) -> Tensor:
        """See `Learner`: about 448 x 448 pixels of the picture's own shape."""
        return fit(picture, PIXELS)

    def fault(self, prompt: str) -> str | None:
        """See `Learner`: one that holds a mark of Qwen2-VL's."""
        return self.prompts.fault(prompt)

    def read(self, prompts: Sequence[str]) -> Mapping[str, Tensor]:
        """See `Learner`: the whole questions, with one place for the picture."""
        rows = [torch.tensor(self.prompts.read(prompt, 1)) for prompt in prompts]
        return {"ids": nn.utils.rnn.pad_sequence(rows, batch_first=True)}

    @torch.no_grad()
    def save(self, folder: Path) -> None:
        """See `Learner`: one file with HPSv3's keys; what was trained is float32, but the row of `<|Reward|>`
        has the embedding's precision. Beside it what a base consists of."""
        network = self.network.model
        state = merged(network)
        mark = state.pop("mark")
        state = {official_name(name): tensor for name, tensor in state.items()}
        row = torch.tensor([self.prompts.reward])
        state[EMBEDDING] = state[EMBEDDING].index_copy(0, row, mark[None].to(state[EMBEDDING].dtype))
        save_tensors(state, folder / FILE)
        network.qwen.config.save_pretrained(folder)
        self.prompts.tokenizer.save_pretrained(folder)

    def how_to_score(self, folder: Path) -> str:
        """See `Learner`."""
        weights, base = quote(f"hpsv3={folder / FILE}"), quote(f"hpsv3.base={folder}")
        return f"--with hpsv3 --weights {weights} --weights {base}"


def open_vlm_learner(config: VlmConfig, seed: int, frozen: torch.dtype = torch.float32) -> VlmLearner:
    """Load the Qwen2-VL or the HPSv3 that a recipe starts from, on the CPU, and freeze what it says.

    Args:
        seed: draws the head, where the start has none, and the adapter.
        frozen: the precision of the weights that are not trained; the others are float32.

    Raises:
        UserError: weights, configuration or tokenizer cannot be loaded or do not fit together.
    """
    path = None if config.path is None else Path(config.path).expanduser()
    if path is None or path.suffix == ".safetensors" or (path / FILE).is_file():
        file = find_weights(path, REPOSITORY, FILE)
        base = config.base or (str(file.parent) if (file.parent / "config.json").is_file() else BASE)
        source, state = str(file), load_tensors(file)
        if EMBEDDING not in state:
            raise UserError(f"{file} has no {EMBEDDING}; is it {FILE} of {REPOSITORY}?")
        prompts = open_hpsv3_prompts(base, len(state[EMBEDDING]))
        settings = read_hpsv3_config(base, len(state[EMBEDDING]))
    else:
        source = base = str(path) if path.exists() else str(config.path)
        text: Any = read_hpsv3_config(base, advice=_START).text_config  # the first to tell that there is no Qwen2-VL
        if config.base is not None:
            raise UserError(f"model.base has no effect where model.path, {path}, is a Qwen2-VL; leave it out")
        prompts = open_hpsv3_prompts(base)
        settings = read_hpsv3_config(base, len(prompts.tokenizer))
        state = start_state(base, len(prompts.tokenizer), text.initializer_range, seed)
    model = build_hpsv3(state, settings, frozen, source)
    train_parts(model, config, prompts.reward, seed)
    return VlmLearner(VlmNetwork(model, prompts), prompts)


def train_parts(model: Hpsv3Network, config: VlmConfig, reward: int, seed: int) -> None:
    """Make the head trainable, and of the rest what the recipe says, in float32.

    Of the token embedding one row is trained, as by HPSv3's authors: that of `<|Reward|>`, whose id is `reward`.
    """
    language = model.qwen.language_model
    model.mark = nn.Parameter(language.embed_tokens.weight[reward].detach().clone())
    if config.lora is None:
        language.requires_grad_(True)
        language.embed_tokens.requires_grad_(False)
    else:
        add_adapter(language, config.lora, seed)
    model.qwen.visual.requires_grad_(config.train_vision)
    model.head.requires_grad_(True)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def start_state(base: str, vocabulary: int, spread: float, seed: int) -> dict[str, Tensor]:
    """The state dict of an HPSv3 before its training: a Qwen2-VL, cut to its tokenizer, under a head that is drawn.

    The row of `<|Reward|>` is one of those that Qwen2-VL has beyond its tokens.

    Args:
        base: a folder or hub id of Qwen2-VL.
        spread: the deviation of the head's weights; its biases are 0. Qwen2-VL's own: transformers 4.45, which the
            authors used, draws whatever a checkpoint lacks so.

    Raises:
        UserError: it cannot be loaded, lacks tensors, or has fewer rows than `vocabulary`.
    """
    options = {"dtype": "auto", "use_safetensors": True, "spare": ("lm_head.weight",)}
    model = load_pretrained(AutoModelForImageTextToText, base, "a Qwen2-VL", "give a whole one", **options)
    state = {official_name(f"qwen.{name}"): tensor for name, tensor in model.model.state_dict().items()}
    if len(state[EMBEDDING]) < vocabulary:
        raise UserError(
            f"{base} embeds {len(state[EMBEDDING])} tokens and its tokenizer has {vocabulary} with <|Reward|>; give a "
            "Qwen2-VL with its own tokenizer"
        )
    state[EMBEDDING] = state[EMBEDDING][:vocabulary].clone()
    head, generator = build_head(state[EMBEDDING].shape[1]), torch.Generator().manual_seed(seed)
    for name, weight in head.state_dict().items():
        drawn = torch.zeros_like(weight) if name.endswith("bias") else weight.normal_(0, spread, generator=generator)
        state[official_name(f"head.{name}")] = drawn
    return state
