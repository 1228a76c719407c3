"""Language models of transformers that rewrite texts: encoders with decoders (T5) and causal ones, chatty or not.

Words are drawn by nucleus sampling (Holtzman et al. 2020, arXiv 1904.09751), each text's from numbers of its own, so
that what is written for it does not depend on the texts beside it, but for rounding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
)

from ....errors import UserError
from ....rewards.quiet import quiet


@dataclass(frozen=True)
class Decoding:
    """How words are drawn.

    top_p        the share of probability that the likeliest tokens must reach; the others are never drawn
    temperature  logits are divided by it
    max_tokens   an answer is cut off there
    """

    top_p: float = 0.75
    temperature: float = 1.0
    max_tokens: int = 256

    def __post_init__(self) -> None:
        if not 0 < self.top_p <= 1:
            raise UserError(f"top-p is {self.top_p:g}; it is a share of probability, above 0 and at most 1")
        if not 0 < self.temperature < float("inf"):
            raise UserError(f"the temperature is {self.temperature:g}; it is a number above 0")


@dataclass(frozen=True, eq=False)
class TextModel:
    """A frozen model and its tokenizer."""

    model: Any
    tokenizer: Any

    def write(self, texts: Sequence[str], generators: Sequence[torch.Generator], decoding: Decoding) -> list[str]:
        """One answer for each text, which a chat model gets as a user's turn and any other model as it stands.

        Args:
            texts: what is asked.
            generators: each text's own, on the CPU.
            decoding: how the words are drawn.

        Raises:
            ValueError: a text is longer than the model reads, or holds one of its control tokens.
        """
        numbers = torch.stack([torch.rand(decoding.max_tokens, generator=g, dtype=torch.float64) for g in generators])
        asked = [self._asked(text) for text in texts]
        begins = bool(self.tokenizer.bos_token) and asked[0].startswith(self.tokenizer.bos_token)
        inputs = self.tokenizer(
            asked, padding=True, padding_side="left", return_tensors="pt", add_special_tokens=not begins
        )
        self._require_room(inputs["input_ids"].shape[1], decoding.max_tokens)
        arguments = {name: inputs[name].to(self.model.device) for name in ("input_ids", "attention_mask")}
        nucleus = LogitsProcessorList([Nucleus(numbers, decoding)])
        with torch.no_grad(), torch.autocast(self.model.device.type, enabled=False):
            ids = self.model.generate(**arguments, max_new_tokens=decoding.max_tokens, logits_processor=nucleus)
        begun = 0 if self.model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
        return self.tokenizer.batch_decode(ids[:, begun:], skip_special_tokens=True)

    def _asked(self, text: str) -> str:
        controls = (token for token in self.tokenizer.all_special_tokens if len(token) > 1)
        if stray := next((token for token in controls if token in text), None):
            raise ValueError(f"the text holds {stray!r}, which is a control token of this model")
        if not self.tokenizer.chat_template:
            return text
        turn = [{"role": "user", "content": text}]
        # Models that think aloud would spend the answer's tokens on it; templates without the switch ignore it.
        settings = {"add_generation_prompt": True, "tokenize": False, "enable_thinking": False}
        return self.tokenizer.apply_chat_template(turn, **settings)

    def _require_room(self, tokens: int, answer: int) -> None:
        config = self.model.config.get_text_config()
        room = getattr(config, "max_position_embeddings", None)  # T5 has none: its positions are relative
        needed = tokens if config.is_encoder_decoder else tokens + answer
        if room is not None and needed > room:
            raise ValueError(f"{tokens} tokens and an answer do not fit into the {room} that the model reads")


class Nucleus(LogitsProcessor):
    """Leaves of each row's logits the one token that its number draws; greedy decoding then takes it.

    Tokens are sorted by probability p_1 >= p_2 >= ...; those before the sum reaches top_p are kept, with the one that
    reaches it. The number u in [0, 1) draws the first i with p_1 + ... + p_i > u * (p_1 + ... + p_m), m the last kept.
    """

    def __init__(self, numbers: Tensor, decoding: Decoding) -> None:
        """`numbers`: uniform in [0, 1), float64 `[rows, tokens]`."""
        self.numbers, self.decoding, self.drawn = numbers, decoding, 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Logits `[rows, vocabulary]`."""
        chances = (scores.double() / self.decoding.temperature).softmax(dim=-1)
        ranked, tokens = chances.sort(dim=-1, descending=True, stable=True)
        reached = ranked.cumsum(dim=-1)
        kept = (reached - ranked < self.decoding.top_p).sum(dim=-1, keepdim=True)
        number = self.numbers[:, self.drawn, None].to(scores.device)
        self.drawn += 1
        mark = number * reached.gather(1, kept - 1)
        place = torch.minimum((reached <= mark).sum(dim=-1, keepdim=True), kept - 1)
        only = torch.full_like(scores, -torch.inf)
        return only.scatter_(1, tokens.gather(1, place), 0.0)


def open_text_model(
    path: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> TextModel:
    """Load a language model and its tokenizer; no code that comes with a checkpoint is run.

    Args:
        path: a folder or a hub id, in the layout of transformers; pickled weights are read as bare tensors.
        device: where it runs.
        dtype: of the model.

    Raises:
        UserError: model or tokenizer cannot be loaded, a tensor is missing, or this is no model that writes.
    """
    source, family = require_text_model(path)
    with _explained(path), quiet():
        model, report = family.from_pretrained(
            source,
            dtype=dtype,
            weights_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, by name
        )
        tokenizer: Any = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    # transformers would fill these with random numbers
    if wrong := sorted({*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])}):
        raise UserError(
            f"{path} lacks {wrong[0]} in the size that its config.json tells ({len(wrong)} tensors in all); "
            "is it a whole model?"
        )
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows or not tokenizer("a dog", add_special_tokens=False)["input_ids"]:
        raise UserError(
            f"the tokenizer of {path} is not that of its model: it knows {len(tokenizer)} tokens and the model {rows}"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.generation_config = _plain(model, tokenizer)
    model.requires_grad_(False).eval()
    return TextModel(model.to(device), tokenizer)


def require_text_model(path: str | Path) -> tuple[str, Any]:
    """Where the model is, and the class that opens it; no more than its config is read.

    Raises:
        UserError: there is no such model, or it is none that writes texts.
    """
    source = str(Path(path).expanduser())
    if Path(source).is_absolute() and not Path(source).is_dir():
        raise UserError(f"there is no folder {path}; give the model's folder or a hub id")
    with _explained(path), quiet():
        config: Any = AutoConfig.from_pretrained(source, trust_remote_code=False)
        mapping = MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING if config.is_encoder_decoder else MODEL_FOR_CAUSAL_LM_MAPPING
        if type(config) not in mapping:
            raise ValueError(f"{config.model_type} writes no texts")
    return source, AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


@contextlib.contextmanager
def _explained(path: str | Path) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # no folder, no network, damaged, another kind of model, code of its own: a dozen
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(
            f"{path} cannot be loaded as a language model ({reason}); give a folder or a hub id of a T5-like or a "
            "causal one that transformers knows"
        ) from error


def _plain(model: Any, tokenizer: Any) -> GenerationConfig:
    """Where answers begin and end; without the checkpoint's own settings, such as beams or a penalty on repetition."""
    own = model.generation_config
    ends = tokenizer.eos_token_id if own is None or own.eos_token_id is None else own.eos_token_id
    starts = getattr(own, "decoder_start_token_id", None)
    return GenerationConfig(
        do_sample=False,
        bos_token_id=getattr(own, "bos_token_id", None),
        eos_token_id=ends,
        pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=starts if starts is not None else getattr(model.config, "decoder_start_token_id", None),
    )
