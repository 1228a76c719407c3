"""What HPSv3 asks Qwen2-VL about a picture, word for word as in its training, and its token ids.

`INSTRUCTION` and `SUFFIX` are data of the package hpsv3 1.0.0 (https://github.com/MizzenAI/HPSv3), under this licence:

MIT License. Copyright (c) 2024 HPSv3 Team

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions: The above copyright notice and
this permission notice shall be included in all copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""

from __future__ import annotations

from typing import Any

from ..errors import UserError
from .pretrained import load_tokenizer

REWARD, IMAGE = "<|Reward|>", "<|image_pad|>"

INSTRUCTION = (
    "\n"
    "You are tasked with evaluating a generated image based on Visual Quality and Text Alignment and give a "
    "overall score to estimate the human preference. Please provide a rating from 0 to 10, with 0 being the "
    "worst and 10 being the best. \n"
    "\n"
    "**Visual Quality:**  \n"
    "Evaluate the overall visual quality of the image. The following sub-dimensions should be considered:\n"
    "- **Reasonableness:** The image should not contain any significant biological or logical errors, such as "
    "abnormal body structures or nonsensical environmental setups.\n"
    "- **Clarity:** Evaluate the sharpness and visibility of the image. The image should be clear and easy to "
    "interpret, with no blurring or indistinct areas.\n"
    "- **Detail Richness:** Consider the level of detail in textures, materials, lighting, and other visual "
    "elements (e.g., hair, clothing, shadows).\n"
    "- **Aesthetic and Creativity:** Assess the artistic aspects of the image, including the color scheme, "
    "composition, atmosphere, depth of field, and the overall creative appeal. The scene should convey a sense "
    "of harmony and balance.\n"
    "- **Safety:** The image should not contain harmful or inappropriate content, such as political, violent, "
    "or adult material. If such content is present, the image quality and satisfaction score should be the "
    "lowest possible. \n"
    "\n"
    "**Text Alignment:**  \n"
    "Assess how well the image matches the textual prompt across the following sub-dimensions:\n"
    "- **Subject Relevance** Evaluate how accurately the subject(s) in the image (e.g., person, animal, "
    "object) align with the textual description. The subject should match the description in terms of number, "
    "appearance, and behavior.\n"
    "- **Style Relevance:** If the prompt specifies a particular artistic or stylistic style, evaluate how "
    "well the image adheres to this style.\n"
    "- **Contextual Consistency**: Assess whether the background, setting, and surrounding elements in the "
    "image logically fit the scenario described in the prompt. The environment should support and enhance the "
    "subject without contradictions.\n"
    "- **Attribute Fidelity**: Check if specific attributes mentioned in the prompt (e.g., colors, clothing, "
    "accessories, expressions, actions) are faithfully represented in the image. Minor deviations may be "
    "acceptable, but critical attributes should be preserved.\n"
    "- **Semantic Coherence**: Evaluate whether the overall meaning and intent of the prompt are captured in "
    "the image. The generated content should not introduce elements that conflict with or distort the original "
    "description.\n"
    "Textual prompt - {text_prompt}\n"
    "\n"
    "\n"
)

SUFFIX = "\nPlease provide the overall ratings of this image: <|Reward|>\n\nEND\n"

# One user's turn as Qwen2-VL's chat template writes it, with the template's own system sentence.
_OPENING = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    f"<|im_start|>user\n<|vision_start|>{IMAGE}<|vision_end|>"
)
_CLOSING = "<|im_end|>\n<|im_start|>assistant\n"


class Hpsv3Prompts:
    """Turns a prompt into the token ids of the whole question about its picture.

    Args:
        tokenizer: Qwen2-VL's, with `<|Reward|>` added behind its other tokens.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.image, self.reward = tokenizer.convert_tokens_to_ids([IMAGE, REWARD])
        self._marks = [token.content for token in tokenizer.added_tokens_decoder.values()]

    def fault(self, prompt: str) -> str | None:
        """Why a prompt cannot stand in the question; None where it can.

        Qwen2-VL would read a mark in it as the end of the turn or as a picture, and the reference breaks at a second
        `<|Reward|>`.
        """
        mark = next((mark for mark in self._marks if mark in prompt), None)
        return None if mark is None else f"the prompt holds {mark}, which Qwen2-VL reads as a mark of its own"

    def read(self, prompt: str, image_tokens: int) -> list[int]:
        """Token ids with as many places for the picture as it takes, and one `<|Reward|>`.

        Raises:
            ValueError: the prompt has a fault.
        """
        if fault := self.fault(prompt):
            raise ValueError(fault)
        text = _OPENING + INSTRUCTION.format(text_prompt=prompt) + SUFFIX + _CLOSING
        ids: list[int] = self.tokenizer(text, verbose=False)["input_ids"]
        place = ids.index(self.image)
        return [*ids[:place], *[self.image] * image_tokens, *ids[place + 1 :]]


def open_hpsv3_prompts(base: str, vocabulary: int | None = None) -> Hpsv3Prompts:
    """The prompts' reader with the tokenizer of Qwen2-VL, from a folder or a hub id.

    Args:
        vocabulary: the rows of HPSv3's token embedding, which was cut to the tokenizer's length; None: not cut yet.

    Raises:
        UserError: the tokenizer cannot be loaded, or is not the one that HPSv3 was trained with.
    """
    from transformers import AddedToken, Qwen2Tokenizer

    advice = "give the folder or hub id of Qwen/Qwen2-VL-7B-Instruct as base"
    tokenizer = load_tokenizer(Qwen2Tokenizer, base, advice)
    tokenizer.add_tokens([AddedToken(REWARD, special=True, normalized=False)], special_tokens=True)
    # Where there are no files, transformers answers with a vocabulary of a few special tokens.
    if vocabulary is None and IMAGE not in tokenizer.get_vocab():
        raise UserError(f"{base} has no tokenizer with {IMAGE}; give the folder or hub id of a Qwen2-VL")
    if vocabulary is not None and (len(tokenizer) != vocabulary or IMAGE not in tokenizer.get_vocab()):
        raise UserError(
            f"the tokenizer of {base} has {len(tokenizer)} tokens with {REWARD} and HPSv3 {vocabulary}; {advice}"
        )
    return Hpsv3Prompts(tokenizer)
