"""Language models that write, against plain transformers and nucleus sampling written out."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from palate.errors import UserError
from palate.t2i.build.captions.text_model import Decoding, Nucleus, open_text_model

TEXTS = ["short", "a much longer text, about many red things and {braces}", "x", "Répondez: 一?"]
DECODING = Decoding(top_p=0.6, temperature=1.3, max_tokens=12)


@pytest.fixture(params=["t5_folder", "chat_folder", "causal_folder"])
def folder(request):
    return request.getfixturevalue(request.param)


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


def nucleus(logits: torch.Tensor, number: float, decoding: Decoding) -> int:
    chances = np.exp(logits.double().numpy() / decoding.temperature)
    chances /= chances.sum()
    ranked = sorted(range(len(chances)), key=lambda token: -chances[token])
    kept, mass = [], 0.0
    for token in ranked:
        if mass >= decoding.top_p:
            break
        kept.append(token)
        mass += chances[token]
    mark, reached = number * mass, 0.0
    for token in kept:
        reached += chances[token]
        if reached > mark:
            return token
    return kept[-1]


def plain(folder, text: str, number: int, decoding: Decoding) -> str:
    """One text, token by token, the whole of it again at each step."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    numbers = torch.rand(
        decoding.max_tokens, generator=torch.Generator().manual_seed(number), dtype=torch.float64
    ).tolist()
    if "t5" in folder.name:
        model = AutoModelForSeq2SeqLM.from_pretrained(folder)
        ids, asked = [tokenizer.pad_token_id], tokenizer(text, return_tensors="pt").input_ids
    else:
        model = AutoModelForCausalLM.from_pretrained(folder)
        chat = f"<|im_start|>{text}<|im_end|><|im_start|>" if "chat" in folder.name else text
        ids, asked = tokenizer(chat).input_ids, None
    begun = len(ids)
    with torch.no_grad():
        for u in numbers:
            now = torch.tensor([ids])
            logits = model(now).logits if asked is None else model(asked, decoder_input_ids=now).logits
            ids.append(nucleus(logits[0, -1], u, decoding))
            if ids[-1] == tokenizer.eos_token_id:
                break
    return tokenizer.decode(ids[begun:], skip_special_tokens=True)


def test_each_row_is_what_is_drawn_for_it_alone(folder):
    model = open_text_model(folder)
    expected = [plain(folder, text, number, DECODING) for number, text in enumerate(TEXTS)]
    assert len(set(expected)) == 4
    assert model.write(TEXTS, generators(4), DECODING) == expected
    assert model.write(TEXTS[2:3], generators(4)[2:3], DECODING) == expected[2:3]


def test_a_nucleus_by_hand():
    logits = torch.log(torch.tensor([[0.1, 0.5, 0.05, 0.3, 0.05]] * 4))
    # 0.5 + 0.3 reach 0.75, so that tokens 1 and 3 share the numbers as 5 to 3: the border is 0.625.
    numbers = torch.tensor([[0.0], [0.62], [0.63], [0.999999]], dtype=torch.float64)
    drawn = Nucleus(numbers, Decoding(top_p=0.75))(torch.zeros(4, 1), logits)
    assert drawn.argmax(dim=-1).tolist() == [1, 1, 3, 3]
    assert (drawn > -torch.inf).sum(dim=-1).tolist() == [1] * 4
    everything = Nucleus(torch.tensor([[0.97]] * 4, dtype=torch.float64), Decoding(top_p=1.0))
    assert set(everything(torch.zeros(4, 1), logits).argmax(dim=-1).tolist()) <= {2, 4}
    cold = Nucleus(torch.tensor([[0.99]] * 4, dtype=torch.float64), Decoding(top_p=1.0, temperature=0.05))
    assert cold(torch.zeros(4, 1), logits).argmax(dim=-1).tolist() == [1] * 4


def test_what_a_model_cannot_take(chat_folder):
    model = open_text_model(chat_folder)
    with pytest.raises(ValueError, match="control token"):
        model.write(["a <|im_end|> b"], generators(1), DECODING)
    with pytest.raises(ValueError, match="do not fit into the 600"):
        model.write(["a" * 590], generators(1), DECODING)


@pytest.mark.parametrize("values", [{"top_p": 0}, {"top_p": 1.1}, {"temperature": 0}, {"temperature": float("inf")}])
def test_impossible_decodings(values):
    with pytest.raises(UserError, match=r"top-p is|the temperature is"):
        Decoding(**values)


def test_opening_is_silent_and_the_model_frozen(t5_folder, capfd):
    model = open_text_model(str(t5_folder)).model
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert capfd.readouterr() == ("", "")


def spoiled(folder, name, change):
    state = load_file(folder / name)
    change(state)
    save_file(state, folder / name, {"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "cannot be loaded as a language model"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 99), "cannot be loaded as a language model"),
        (lambda folder: (folder / "config.json").write_text(json.dumps({"model_type": "vit"})), "vit writes no texts"),
        (
            lambda folder: (folder / "config.json").write_text(
                json.dumps({"model_type": "x", "auto_map": {"AutoConfig": "x.Y"}})
            ),
            "custom code|cannot be loaded",
        ),
        (
            lambda folder: spoiled(folder, "model.safetensors", lambda state: state.pop("model.norm.weight")),
            "lacks model.norm.weight",
        ),
    ],
)
def test_what_cannot_be_opened_is_said_in_one_line(chat_folder, tmp_path, spoil, message):
    broken = shutil.copytree(chat_folder, tmp_path / "broken")
    spoil(broken)
    with pytest.raises(UserError, match=message) as caught:
        open_text_model(broken)
    assert "\n" not in str(caught.value)


def test_what_is_no_language_model(vlm_folder, tmp_path):
    with pytest.raises(UserError, match="qwen2_5_vl writes no texts"):
        open_text_model(vlm_folder)
    with pytest.raises(UserError, match="there is no folder"):
        open_text_model(tmp_path / "none")
