"""`Vlm` against plain transformers, one row at a time, for two families of models."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from palate.errors import UserError
from palate.rewards.vlm import Vlm, open_vlm

SIZES = [(60, 40), (200, 90), (33, 130), (64, 64)]
TEXTS = ["short", "a much longer question, about many red things and {braces}: is it so?", "x", "Répondez: 一?"]


@pytest.fixture(scope="module", params=["qwen_folder", "idefics_folder"])
def folder(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def vlm(folder) -> Vlm:
    return open_vlm(folder)


@pytest.fixture(scope="module")
def rows(make_picture):
    return [[make_picture(*size, seed)] for seed, size in enumerate(SIZES)]


@pytest.fixture(scope="module")
def plain(folder):
    return AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)


def plain_inputs(processor, pictures, text):
    content = [*({"type": "image", "image": picture} for picture in pictures), {"type": "text", "text": text}]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )


def test_last_logits_are_those_of_plain_transformers(vlm, plain, rows):
    model, processor = plain
    logits = vlm.last_logits(rows, TEXTS)
    assert logits.dtype == torch.float32
    with torch.no_grad():
        expected = [
            model(**plain_inputs(processor, row, text)).logits[0, -1] for row, text in zip(rows, TEXTS, strict=True)
        ]
    assert expected[0].std() > 0.5
    torch.testing.assert_close(logits, torch.stack(expected), atol=1e-5, rtol=0)


def test_a_row_does_not_depend_on_its_company(vlm, rows):
    together = vlm.last_logits(rows, TEXTS)
    alone = torch.cat([vlm.last_logits([row], [text]) for row, text in zip(rows, TEXTS, strict=True)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    backwards = vlm.last_logits(rows[::-1], TEXTS[::-1]).flip(0)
    torch.testing.assert_close(together, backwards, atol=1e-5, rtol=0)


def test_pictures_and_their_order_count(vlm, rows):
    first, second = rows[0][0], rows[3][0]
    pair, swapped = vlm.last_logits([[first, second], [second, first]], ["which?"] * 2)
    assert (pair - swapped).abs().max() > 1e-3
    torch.testing.assert_close(pair, vlm.last_logits([[first, second]], ["which?"])[0], atol=1e-5, rtol=0)
    other = vlm.last_logits([rows[3]], [TEXTS[0]])
    assert (other - vlm.last_logits([rows[0]], [TEXTS[0]])).abs().max() > 1e-3


def test_answers_are_greedy_whatever_the_checkpoint_wants(vlm, plain, rows):
    model, processor = plain
    greedy, penalised = [], []
    for row, text in zip(rows, TEXTS, strict=True):
        inputs = plain_inputs(processor, row, text)
        start = inputs["input_ids"].shape[1]
        for answers, settings in ((greedy, {"repetition_penalty": 1.0}), (penalised, {})):
            ids = model.generate(**inputs, do_sample=False, max_new_tokens=10, **settings)
            answers.append(processor.tokenizer.decode(ids[0, start:], skip_special_tokens=True))
    assert greedy != penalised  # the checkpoint's own settings would have shown
    assert [reply.text for reply in vlm.answer(rows, TEXTS, 10)] == greedy
    assert [reply.text for reply in vlm.answer(rows[2:3], TEXTS[2:3], 10)] == greedy[2:3]


@pytest.mark.parametrize("listed", [True, False])
def test_an_answer_without_an_end_was_cut_off(folder, plain, rows, listed):
    model, processor = plain
    vlm = open_vlm(folder)
    inputs = plain_inputs(processor, rows[0], TEXTS[0])
    ids = model.generate(**inputs, do_sample=False, repetition_penalty=1.0, max_new_tokens=10)
    said = ids[0, inputs["input_ids"].shape[1] :].tolist()
    end = next(token for token in said if token != said[0])
    vlm.model.generation_config.eos_token_id = [end, 1] if listed else end
    room = said.index(end) + 1
    replies = [vlm.answer(rows[:1], TEXTS[:1], tokens)[0].cut_off for tokens in (room - 1, room, 10)]
    assert replies == [True, False, False]
    vlm.model.generation_config.eos_token_id = None
    assert vlm.answer(rows[:1], TEXTS[:1], 10)[0].cut_off


def test_thoughts_that_the_chat_template_opens_are_part_of_the_answer(folder, rows):
    vlm = open_vlm(folder)
    template = vlm.processor.chat_template
    answers = {}
    for name, end in {"opened": "<think>\n", "closed": "<think>\n\n</think>\n\n"}.items():
        vlm.processor.chat_template = template + "{% if add_generation_prompt %}" + end + "{% endif %}"
        answers[name] = vlm.answer(rows[:2], ["Why <think>", "a"], 5)
    assert all(answer.text.startswith("<think>") and len(answer.text) > len("<think>") for answer in answers["opened"])
    assert not any(answer.text.startswith("<think>") for answer in answers["closed"])


def test_control_tokens_in_a_text_are_refused(vlm, rows):
    for token in (vlm.processor.image_token, "<|im_end|>", "<|im_start|>"):
        with pytest.raises(ValueError, match="control token"):
            vlm.last_logits(rows[:1], [f"a dog {token} a cat"])


def test_bfloat16_keeps_float32_logits(qwen_folder, rows):
    logits = open_vlm(qwen_folder, dtype=torch.bfloat16).last_logits(rows, TEXTS)
    assert logits.dtype == torch.float32
    assert (logits.bfloat16().float() != logits).float().mean() > 0.9
    exact = open_vlm(qwen_folder).last_logits(rows, TEXTS)
    assert (logits - exact).abs().max() < 0.1


def test_a_trainers_autocast_changes_nothing(vlm, rows):
    expected = vlm.last_logits(rows[:1], TEXTS[:1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(vlm.last_logits(rows[:1], TEXTS[:1]), expected, atol=0, rtol=0)


def test_opening_is_silent_and_the_model_frozen(qwen_folder, capfd):
    vlm = open_vlm(str(qwen_folder), processor=qwen_folder)
    assert not any(parameter.requires_grad for parameter in vlm.model.parameters())
    assert not vlm.model.training
    assert capfd.readouterr() == ("", "")


def test_first_token(qwen_folder):
    vlm = open_vlm(qwen_folder)
    assert vlm.first_token("Yes") == vlm.processor.tokenizer.convert_tokens_to_ids("Y")
    with pytest.raises(UserError, match="does not know the answer ''"):
        vlm.first_token("")


def without(name):
    return lambda folder: (folder / name).unlink()


def rewrite(change):
    def spoil(folder):
        state = load_file(folder / "model.safetensors")
        change(state)
        save_file(state, folder / "model.safetensors", {"format": "pt"})

    return spoil


def as_pickle(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def configured(**values):
    return lambda folder: (folder / "config.json").write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without("tokenizer.json"), "is not that of .* give the model's own processor"),
        (without("processor_config.json"), "the processor .* cannot be loaded"),
        (without("chat_template.jinja"), "has no chat template"),
        (without("config.json"), "cannot be loaded as a vision-language model"),
        (as_pickle, "cannot be loaded .*safetensors"),
        (rewrite(lambda state: state.pop("lm_head.weight")), "lacks lm_head.weight .*1 tensors"),
        (
            rewrite(lambda state: state.update({"lm_head.weight": torch.zeros(9, 32)})),
            "lacks lm_head.weight in the size",
        ),
        (configured(model_type="bert"), "Unrecognized configuration class"),
        (configured(model_type="x", auto_map={"AutoConfig": "x.Y"}), "cannot be loaded .*custom code"),
    ],
)
def test_what_cannot_be_opened_is_said_in_one_line(qwen_folder, tmp_path, spoil, message):
    broken = shutil.copytree(qwen_folder, tmp_path / "broken")
    spoil(broken)
    with pytest.raises(UserError, match=message) as caught:
        open_vlm(broken)
    assert "\n" not in str(caught.value)


def test_a_processor_of_another_model(qwen_folder, idefics_folder):
    with pytest.raises(UserError, match=r"it knows [0-9]+ tokens and the model 263"):
        open_vlm(qwen_folder, processor=idefics_folder)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"there is no folder .*none"):
        open_vlm(tmp_path / "none")
