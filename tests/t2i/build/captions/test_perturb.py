"""A language model as a perturber: how it is asked, and what becomes of its answers."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from palate.errors import UserError
from palate.rewards.questions import SLOT
from palate.t2i.build.captions.answers import Answer
from palate.t2i.build.captions.perturb import TEMPLATE, ModelPerturber
from palate.t2i.build.captions.text_model import Decoding


class Script:
    """A text model that answers by a table, and notes what it was asked."""

    def __init__(self, answers: dict[str, str], chat: str | None = "chat") -> None:
        self.answers, self.asked, self.sizes = answers, [], []
        self.model = SimpleNamespace(config=SimpleNamespace(is_encoder_decoder=False))
        self.tokenizer = SimpleNamespace(chat_template=chat)

    def write(self, texts, generators, decoding):
        self.sizes.append(len(texts))
        self.asked += [(text, generator.initial_seed()) for text, generator in zip(texts, generators, strict=True)]
        if any("<x>" in text for text in texts):
            raise ValueError("no such thing")
        return [self.answers[text.rpartition(": ")[2]] for text in texts]


def test_the_question():
    template = "lexical = {kept}, order = 0, {share} <sent> {prompt} </sent>"
    perturber = ModelPerturber("m", "weak", template=template)
    assert perturber.question("a {share} dog") == "lexical = 60, order = 0, 40 <sent> a {share} dog </sent>"
    assert TEMPLATE.count(SLOT) == 1
    assert "about 80 %" in ModelPerturber("m", "strong").question("x")


def test_answers_and_their_faults():
    script = Script({"a": ' "a bee\n of two" ', "b": "  ", "c": "“C”", "d": "<think>hm</think>do", "e": "eel"})
    perturber = ModelPerturber("m", batch_size=4)
    assert perturber._ask(script, ["a", "b", "c", "d", "<x>", "e"]) == [
        Answer("a bee of two"),
        Answer(None, "the model says nothing"),
        Answer(None, "the model gives the text back as it is"),
        Answer("do"),
        Answer(None, "no such thing"),
        Answer("eel"),
    ]
    assert script.sizes == [4, 2, 1, 1]


def test_numbers_depend_on_seed_and_text_alone():
    one, other = Script({"a": "x", "b": "y"}), Script({"a": "x", "b": "y"})
    ModelPerturber("m", seed=3)._ask(one, ["a", "b"])
    ModelPerturber("m", seed=3)._ask(other, ["b"])
    assert one.asked[1] == other.asked[0]
    assert one.asked[0][1] != one.asked[1][1]
    ModelPerturber("m", seed=4)._ask(other, ["b"])
    assert other.asked[0][1] != other.asked[1][1]


def test_a_model_that_does_not_chat_goes_on_and_on():
    answers = {"a": "\n two dogs\nDescription: three"}
    assert ModelPerturber("m")._ask(Script(answers, chat=None), ["a"]) == [Answer("two dogs")]
    assert ModelPerturber("m")._ask(Script(answers), ["a"]) == [Answer("two dogs Description: three")]


def test_settings_tell_all_that_decides_the_texts(t5_folder):
    perturber = ModelPerturber(str(t5_folder), "strong", 5, decoding=Decoding(0.5, 0.7, 9))
    told = perturber.settings()
    assert told.pop("weights").startswith("sha256 ")
    assert told == {
        "model": str(t5_folder),
        "strength": "strong",
        "share": 0.8,
        "seed": 5,
        "template": TEMPLATE,
        "top_p": 0.5,
        "temperature": 0.7,
        "max_tokens": 9,
        "dtype": "float32",
    }
    assert (Decoding().top_p, Decoding().max_tokens) == (0.75, 256)
    with pytest.raises(UserError, match="no strength 'x'"):
        ModelPerturber("m", "x").settings()


def test_a_real_model(t5_folder):
    perturber = ModelPerturber(str(t5_folder), decoding=Decoding(max_tokens=8), batch_size=2)
    answers = perturber.open()(["a dog", "two cats", "x"])
    assert perturber.open()(["x", "a dog"]) == [answers[2], answers[0]]
    assert all(answer.text for answer in answers)
