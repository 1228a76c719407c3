"""Prompts as the network hears them: encoded once, kept on disk under the keys that every other run uses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...datasets.converted import Say
from ...datasets.digest import digest
from ...errors import PalateError
from ..batches import PROMPTS_AT_ONCE
from ..cache import TensorCache
from ..fingerprint import fingerprint
from ..models.family import Conditions, Framing
from ..models.model import TextToImageModel
from ..sources import EncodingKeys, split_rows


@dataclass(frozen=True)
class EncodedPrompts:
    """Encoded prompts, read one by one; `sizes` is what a sampler tells the network of the picture's size."""

    cache: TensorCache
    keys: EncodingKeys
    sizes: Conditions

    def __getitem__(self, prompt: str) -> Conditions:
        """A prompt's conditions without a leading dimension. Raises PalateError for an entry that is gone."""
        key = self.keys.prompt(prompt)
        tensors = self.cache.get(key)
        if tensors is None:
            raise PalateError(
                f"the cache entry {self.cache.path(key)} is gone or damaged; run the same command again and it is "
                "encoded anew"
            )
        return tensors | {name: tensor[0] for name, tensor in self.sizes.items()}

    def rows(self, prompts: Sequence[str]) -> Conditions:
        """The conditions of several, one row each."""
        found = [self[prompt] for prompt in prompts]
        return {name: torch.stack([one[name] for one in found]) for name in found[0]}


def encode_prompts(
    model: TextToImageModel,
    prompts: Sequence[str],
    folder: str,
    resolution: int,
    say: Say = print,
    advance: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> EncodedPrompts:
    """Encode what the cache in `folder` lacks, the empty prompt too, and free the text encoders."""
    family = model.family
    texts = digest(fingerprint(model.checkpoint, (*family.text_encoders, *family.tokenizers)), str(model.dtype))
    cache, keys = TensorCache(Path(folder).expanduser()), EncodingKeys("", texts, resolution, "float32")
    missing = [prompt for prompt in dict.fromkeys(["", *prompts]) if keys.prompt(prompt) not in cache]
    if cut := model.count_truncated(missing) if missing else 0:
        say(f"{cut} of {len(missing)} prompts are longer than the text encoder reads; their ends are not seen")
    for start in range(0, len(missing), PROMPTS_AT_ONCE):
        batch = missing[start : start + PROMPTS_AT_ONCE]
        for prompt, row in zip(batch, split_rows(model.encode_prompts(batch)), strict=True):
            cache.put(keys.prompt(prompt), row)
        advance("encoding prompts", start + len(batch), len(missing))
    model.free("text")
    side = (resolution, resolution)
    return EncodedPrompts(cache, keys, family.size_conditions([Framing(side, (0, 0), side)]))


def expanded(row: Conditions, count: int) -> dict[str, Tensor]:
    """Conditions of one row for `count` rows."""
    return {name: tensor.expand(count, *tensor.shape[1:]) for name, tensor in row.items()}
