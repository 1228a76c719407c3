"""Vision-language models of transformers: pictures and a question in, the next token's logits or an answer out.

Any causal chat model that `AutoModelForImageTextToText` opens without code of its own should do; Qwen2.5-VL, Qwen3-VL,
LLaVA-OneVision and Idefics3 have been compared with plain transformers.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig

from ..errors import UserError
from .pretrained import load_pretrained, reason_of
from .quiet import quiet
from .thoughts import OPENED, opens_thoughts


class Reply(NamedTuple):
    """An answer, and whether it was cut off where it had no more room."""

    text: str
    cut_off: bool = False


class Answerer(Protocol):
    """Whoever answers questions about pictures: a `Vlm`, or a service that holds one."""

    def answer(self, pictures: Sequence[Sequence[Image.Image]], texts: Sequence[str], max_tokens: int) -> list[Reply]:
        """One answer per question; see `Vlm.answer`."""
        ...


@dataclass(frozen=True, eq=False)
class Vlm:
    """A frozen model, and the processor that lays out its chats and cuts its pictures.

    A row is one or more pictures and a text, asked as one user's turn in the model's own chat template. What comes out
    for a row does not depend on the rows beside it, but for rounding (to 1e-5 in float32).
    """

    model: Any
    processor: Any

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.model.device

    def first_token(self, word: str) -> int:
        """The id of the token with which an answer begins that begins with `word`.

        Raises:
            UserError: the tokenizer does not know it.
        """
        tokenizer = self.processor.tokenizer
        ids = tokenizer(word, add_special_tokens=False)["input_ids"]
        if not ids or ids[0] == tokenizer.unk_token_id:
            raise UserError(f"this model's tokenizer does not know the answer {word!r}; choose another")
        return ids[0]

    def last_logits(self, pictures: Sequence[Sequence[Image.Image]], texts: Sequence[str]) -> Tensor:
        """The logits of each answer's first token, float32 `[n, vocabulary]`, in one forward pass; no gradients.

        The output layer works in float32 whatever the model's dtype: bfloat16 rounds a logit of 20 to steps of 0.125,
        an eighth of a probability.

        Args:
            pictures: each row's RGB pictures.
            texts: each row's question.

        Raises:
            ValueError: the processor refuses a picture, or a text holds one of the model's control tokens.
        """
        # Padding on the right leaves every token in the place that it has alone, and causal attention never sees it.
        inputs = self.read(pictures, texts, padding_side="right")
        last = inputs["attention_mask"].sum(dim=-1) - 1
        places, place_of_row = last.unique(return_inverse=True)
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False), _float32_output(self.model):
            if "logits_to_keep" in inspect.signature(self.model.forward).parameters:
                logits = self.model(**inputs, use_cache=False, logits_to_keep=places).logits
            else:
                logits = self.model(**inputs, use_cache=False).logits[:, places]
        return logits[torch.arange(len(texts), device=logits.device), place_of_row].float()

    def answer(self, pictures: Sequence[Sequence[Image.Image]], texts: Sequence[str], max_tokens: int) -> list[Reply]:
        """The most likely answers, token by token (greedy), `max_tokens` long at most.

        Where the chat template opens the model's thoughts, the answer begins with `<think>` as if the model had: else
        one that was cut off within them would look like an answer without any.

        Args:
            pictures: each row's RGB pictures.
            texts: each row's question.

        Raises:
            ValueError: the processor refuses a picture, or a text holds one of the model's control tokens.
        """
        inputs = self.read(pictures, texts, padding_side="left")
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            ids = self.model.generate(**inputs, max_new_tokens=max_tokens)
        said = ids[:, inputs["input_ids"].shape[1] :]
        ends = self.model.generation_config.eos_token_id
        ended = torch.isin(said, torch.tensor([] if ends is None else ends).to(said)).any(dim=1).tolist()
        answers = self.processor.tokenizer.batch_decode(said, skip_special_tokens=True)
        opened = OPENED if opens_thoughts(self._chat(1, "")) else ""
        return [Reply(f"{opened}{answer}", not end) for answer, end in zip(answers, ended, strict=True)]

    def read(
        self, pictures: Sequence[Sequence[Image.Image]], texts: Sequence[str], padding_side: Literal["left", "right"]
    ) -> Any:
        """The model's inputs, on its device; each row ends where the model's answer begins.

        Raises:
            ValueError: as for `last_logits`.
        """
        controls = self._control_tokens()
        for text in texts:
            # A prompt that writes "<image>" would take the next row's picture, or end the user's turn and speak for
            # the model.
            if stray := next((token for token in controls if token in text), None):
                raise ValueError(f"the text holds {stray!r}, which is a control token of this model")
        chats = [self._chat(len(images), text) for images, text in zip(pictures, texts, strict=True)]
        begin = self.processor.tokenizer.bos_token
        settings = {"padding": True, "padding_side": padding_side, "return_tensors": "pt"}
        if begin and chats[0].startswith(begin):
            settings["add_special_tokens"] = False  # else there are two of it
        inputs = self.processor(text=chats, images=[list(images) for images in pictures], **settings)
        return inputs.to(self.device, self.model.dtype)

    def _chat(self, images: int, text: str) -> str:
        content = [*({"type": "image"} for _ in range(images)), {"type": "text", "text": text}]
        turn = [{"role": "user", "content": content}]
        return self.processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)

    def _control_tokens(self) -> list[str]:
        tokenizer = self.processor.tokenizer
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        placeholders = [getattr(self.processor, f"{kind}_token", None) for kind in ("image", "video")]
        special = (token.content for token in added if token.special)
        tokens = {*tokenizer.all_special_tokens, *special, *(str(token) for token in placeholders if token)}
        return sorted(token for token in tokens if len(token) > 1)  # some pad with "!"


def open_vlm(
    path: str | Path,
    processor: str | Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Vlm:
    """Load a vision-language model and its processor; no code that comes with a checkpoint is run.

    Args:
        path: a folder or a hub id, in the layout of transformers, with safetensors.
        processor: a folder or a hub id with tokenizer, image processor and chat template; None where `path` holds them.
        device: where it runs.
        dtype: of the model; a model of 7 billion parameters takes 15 GB in bfloat16 and twice that in float32.

    Raises:
        UserError: model or processor cannot be loaded, a tensor is missing, or this is no chat model for pictures.
    """
    source = _found(processor or path)
    model = _load_model(_found(path), dtype)
    reader = _load_processor(source)
    tokenizer = reader.tokenizer
    rows = model.get_input_embeddings().num_embeddings
    # Where there are no files, transformers answers with a vocabulary of special tokens, and no word has any.
    if len(tokenizer) > rows or not tokenizer("a dog", add_special_tokens=False)["input_ids"]:
        raise UserError(
            f"the tokenizer of {source} is not that of {path}: it knows {len(tokenizer)} tokens and the model {rows}; "
            "give the model's own processor, with its tokenizer.json"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    ends = model.generation_config.eos_token_id if model.generation_config else None
    # A checkpoint's own settings for chatting (temperature, a penalty on repetition) would change an answer.
    model.generation_config = GenerationConfig(
        do_sample=False,
        eos_token_id=tokenizer.eos_token_id if ends is None else ends,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.requires_grad_(False).eval()
    return Vlm(model.to(device), reader)


def _load_model(path: str, dtype: torch.dtype) -> Any:
    advice = "give a folder or a hub id of a whole one that transformers knows, with safetensors"
    model = load_pretrained(
        AutoModelForImageTextToText, path, "a vision-language model", advice, dtype=dtype, use_safetensors=True
    )
    if model.config.is_encoder_decoder:
        raise UserError(f"{path} is an encoder with a decoder, which is not supported; give a chat model")
    return model


def _load_processor(path: str) -> Any:
    try:
        with quiet():
            processor: Any = AutoProcessor.from_pretrained(path, trust_remote_code=False)
    except MemoryError:
        raise
    except Exception as error:  # as above, and packages that are not installed
        raise UserError(
            f"the processor {path} cannot be loaded ({reason_of(error)}); give a folder or a hub id with the model's "
            "tokenizer and image processor"
        ) from error
    # Where there is no image processor, transformers answers with the tokenizer alone.
    if not (hasattr(processor, "tokenizer") and hasattr(processor, "image_processor")):
        raise UserError(f"{path} holds no processor for pictures and text; give the folder or hub id that does")
    if not (processor.chat_template or processor.tokenizer.chat_template):
        raise UserError(f"{path} has no chat template, so it is no model to ask; give one that was trained to answer")
    return processor


@contextlib.contextmanager
def _float32_output(model: Any) -> Iterator[None]:
    """Let the output layer compute in float32; what a model does to its logits afterwards stays its own affair."""
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear) or head.weight.dtype == torch.float32:
        yield
        return

    def exact(head: nn.Linear, inputs: tuple[Tensor, ...], _: Tensor) -> Tensor:
        bias = None if head.bias is None else head.bias.float()
        return F.linear(inputs[0].float(), head.weight.float(), bias)

    handle = head.register_forward_hook(exact)
    try:
        yield
    finally:
        handle.remove()


def _found(path: str | Path) -> str:
    expanded = Path(path).expanduser()
    if expanded.is_absolute() and not expanded.is_dir():
        raise UserError(f"there is no folder {path}; give the model's folder or a hub id")
    return str(expanded)
