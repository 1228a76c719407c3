"""`palate generate`: pictures, their list, what a second run does, and the mistakes that it answers."""

from __future__ import annotations

import errno
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from palate.cli import main
from palate.t2i.models.checkpoint import find_checkpoint
from palate.t2i.models.model import TextToImageModel
from palate.t2i.models.policy import LoraPolicy, LoraSettings

QUICK = ("--steps", "1")


@pytest.fixture(autouse=True)
def _quietly(monkeypatch):
    """One thread, and no way to the hub, where names that are no folders are looked for."""
    torch.set_num_threads(1)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def generate(monkeypatch, capsys, tmp_path):
    """`generate("tiny-sdxl", ...)` gives the exit code, stdout and stderr, in an empty folder of its own."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["palate", "generate", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0), *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def loras(tmp_path_factory) -> Path:
    """A LoRA of each tiny model, whose weights are not zero."""
    folder = tmp_path_factory.mktemp("loras")
    for name in ("sdxl", "sd3"):
        model = TextToImageModel(find_checkpoint(f"tiny-{name}"))
        policy = LoraPolicy(model.network, model.checkpoint, LoraSettings(rank=2))
        with torch.no_grad():
            for weight in policy.network.parameters():
                if weight.requires_grad:
                    weight.fill_(0.3)
        policy.save(folder / name)
    return folder


def rows(folder: str = "generated") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(folder, "images.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize("model", ["tiny-sdxl", "tiny-sd3"])
def test_pictures_and_their_list(generate, model):
    Path("prompts.txt").write_text("a photo of a red circle\n\n  der grüne Kreis  \n", encoding="utf-8")
    code, _, err = generate(
        model, "--prompts", "prompts.txt", "-p", "a blue square", "--images", 2, "--seed", 5, *QUICK
    )
    assert code == 0, err
    listed = rows()
    assert [row["prompt"] for row in listed] == [
        text for text in ("a blue square", "a photo of a red circle", "der grüne Kreis") for _ in range(2)
    ]
    assert [row["seed"] for row in listed] == [5, 6] * 3
    assert len({Image.open(Path("generated", row["image"])).tobytes() for row in listed}) == 6
    assert {path.name for path in Path("generated").iterdir()} == {row["image"] for row in listed} | {"images.jsonl"}
    assert err.splitlines()[-1] == "6 pictures drawn, 0 were there: generated/images.jsonl"


def pixels(row: dict[str, Any]) -> np.ndarray:
    return np.asarray(Image.open(Path("generated", row["image"]))).astype(int)


def test_a_second_run_draws_only_what_is_missing_and_the_same(generate):
    command = ("tiny-sdxl", "-p", "a", "-p", "b", *QUICK)
    generate(*command)
    listed = rows()
    before = [pixels(row) for row in listed]
    Path("generated", listed[1]["image"]).unlink()
    assert "1 pictures drawn, 1 were there" in generate(*command)[2]
    assert rows() == listed
    assert np.array_equal(pixels(listed[0]), before[0])
    # Drawn alone now and beside another then: sums are rounded in another order, by one level of 255 at most.
    assert np.abs(pixels(listed[1]) - before[1]).max() <= 1
    generate("tiny-sdxl", "-p", "a", "--seed", 1, *QUICK)
    assert len(rows()) == 3


def test_a_lora_changes_the_pictures(generate, loras):
    for extra in ((), ("--lora", loras / "sdxl")):
        code, _, err = generate("tiny-sdxl", "-p", "a", *QUICK, *extra)
        assert code == 0, err
    plain, changed = (Path("generated", row["image"]).read_bytes() for row in rows())
    assert plain != changed


def drawn_anew(err: str) -> bool:
    """Whether the one picture was drawn, not found."""
    said = err.splitlines()[-1]
    assert said.startswith(("1 pictures drawn, 0 were there", "0 pictures drawn, 1 were there")), said
    return said.startswith("1")


def test_other_weights_at_the_same_path_give_other_pictures(generate, loras):
    model = Path(shutil.copytree(find_checkpoint("tiny-sdxl").path, "model"))
    lora = Path(shutil.copytree(loras / "sdxl", "lora"))
    command = (model, "-p", "a", "--lora", lora, *QUICK)
    for file in (None, lora / "pytorch_lora_weights.safetensors", model / "unet/diffusion_pytorch_model.safetensors"):
        if file:
            weights = {name: tensor.mul(1.5) for name, tensor in load_file(file).items()}
            save_file(weights, file, {"format": "pt"})
        assert drawn_anew(generate(*command)[2])
        assert not drawn_anew(generate(*command)[2])
    assert len({Path("generated", row["image"]).read_bytes() for row in rows()}) == 3
    assert drawn_anew(generate(*command[:-2], "--lora", lora / "pytorch_lora_weights.safetensors", *QUICK)[2])
    assert drawn_anew(generate(*command, "--dtype", "bfloat16")[2])
    assert [row["dtype"] for row in rows()] == ["float32"] * 4 + ["bfloat16"]


def test_an_old_manifest_is_added_to(generate):
    Path("generated").mkdir()
    old = json.dumps({"prompt": "a\u2028b", "seed": 0, "model": "tiny-sdxl", "image": "x.png"}, ensure_ascii=False)
    Path("generated/images.jsonl").write_text(old + "\n", encoding="utf-8")
    assert generate("tiny-sdxl", "-p", "a", *QUICK)[0] == 0
    lines = Path("generated/images.jsonl").read_text("utf-8").split("\n")
    assert (lines[0], len(lines)) == (old, 3)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\xff\xfe\x00", "it is no text file"),
        (b'{"prompt": "a"}\n{"pro', "line 2 is no JSON object"),
        (b"[1]\n", "line 1 is no JSON object"),
    ],
)
def test_a_damaged_manifest_is_told_before_anything_is_drawn(generate, monkeypatch, content, told):
    monkeypatch.setattr(TextToImageModel, "decode", lambda *_: pytest.fail("drawn"))
    Path("generated").mkdir()
    Path("generated/images.jsonl").write_bytes(content)
    code, _, err = generate("tiny-sdxl", "-p", "a", *QUICK)
    assert code == 2
    assert err.splitlines()[-1].startswith(f"palate: generated/images.jsonl is damaged: {told}; repair it, ")
    assert [path.name for path in Path("generated").iterdir()] == ["images.jsonl"]
    assert Path("generated/images.jsonl").read_bytes() == content


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["tiny-sdxl"], "there is nothing to draw: give --prompt or --prompts"),
        (["tiny-sdxl", "--prompts", "absent.txt"], "the prompt file absent.txt does not exist"),
        (["tiny-sdxl", "--prompts", "empty.txt"], "the prompt file empty.txt holds no prompts"),
        (["tiny-sdxl", "--prompts", "binary.txt"], "binary.txt is not a text file in UTF-8 with one prompt a line"),
        (["tiny-sdxl", "--prompts", "."], ". is not a text file in UTF-8 with one prompt a line"),
        (["tiny-sdlx", "-p", "a"], "there is no folder tiny-sdlx"),
        (["nobody/nothing", "-p", "a"], "the Hugging Face hub cannot be reached"),
        (["empty.txt", "-p", "a"], "empty.txt is a file; palate takes a diffusers folder"),
        (["tiny-sdxl", "-p", "a", "--dtype", "int8"], "--dtype is 'int8'; it is auto, float32, bfloat16 or float16"),
        (["tiny-sdxl", "-p", "a", "--resolution", 34], "--resolution is 34, but tiny-sdxl draws multiples of 8 pixels"),
        (["tiny-sd3", "-p", "a", "--resolution", 36], "--resolution is 36, but tiny-sd3 draws multiples of 8 pixels"),
        (["tiny-sdxl", "-p", "a", "--resolution", 20], "--resolution is 20, but tiny-sdxl draws multiples of 8 pixels"),
        (["tiny-sd3", "-p", "a", "--resolution", 640], "--resolution is 640, but tiny-sd3 takes at most 128 pixels"),
        (["tiny-sdxl", "-p", "a", "--guidance", "inf"], "--guidance is inf; it must be a finite number"),
        (["tiny-sdxl", "-p", "a", "--lora", "absent"], "the LoRA absent cannot be loaded into "),
        (["tiny-sdxl", "-p", "a", "--lora", "damaged"], "the LoRA damaged cannot be loaded into "),
        (["tiny-sdxl", "-p", "a", "--lora", "loras/sd3"], "the LoRA loras/sd3 holds no layer of "),
        (["tiny-sd3", "-p", "a", "--lora", "loras/sdxl"], "the LoRA loras/sdxl holds no layer of "),
        (["tiny-sdxl", "-p", "a", "--out", "empty.txt"], "the output folder empty.txt cannot be made: File exists"),
    ],
)
def test_mistakes(generate, loras, tmp_path, arguments, told):
    Path("empty.txt").write_text("\n \n")
    Path("binary.txt").write_bytes(b"\xff\xfe\x00")
    Path("loras").symlink_to(loras)
    Path("damaged").mkdir()
    Path("damaged/pytorch_lora_weights.safetensors").write_bytes(b"\x10" * 40)
    before = {path.name for path in tmp_path.iterdir()}
    code, out, err = generate(*arguments)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("palate: ")
    assert told in err
    assert "Traceback" not in err
    assert err.count("palate: ") == 1
    assert {path.name for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    "option", [("--seed", -1), ("--seed", 2**64), ("--images", 0), ("--steps", 0), ("--batch-size", 0)]
)
def test_numbers_out_of_range(generate, option):
    code, _, err = generate("tiny-sdxl", "-p", "a", *option)
    assert code == 2
    assert f"Invalid value for '{option[0]}'" in err


def test_a_prompt_longer_than_the_encoder_reads_is_said_once(generate):
    code, _, err = generate("tiny-sdxl", "-p", "a red circle " * 100, "-p", "a", "--images", 2, *QUICK)
    assert code == 0
    assert err.count("1 prompts are longer than the text encoder reads; their ends are not seen") == 1


def test_a_full_disk_leaves_no_half_picture(generate, monkeypatch):
    def full(picture: Image.Image, file: Path, **_: Any) -> None:
        Path(file).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    code, _, err = generate("tiny-sdxl", "-p", "a", *QUICK)
    assert code == 1
    assert err.splitlines()[-1].startswith("palate: No space left on device")
    assert list(Path("generated").iterdir()) == []


def test_lost_memory_is_one_line(generate, monkeypatch):
    def lost(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(TextToImageModel, "decode", lost)
    code, _, err = generate("tiny-sdxl", "-p", "a", *QUICK)
    assert code == 1
    assert err.splitlines()[-1].startswith("palate: out of memory; take a smaller batch")


def test_several_prompt_files_and_a_byte_order_mark(generate):
    Path("one.txt").write_text("a red circle\n", encoding="utf-8-sig")
    Path("two.txt").write_text("a blue square\n")
    assert generate("tiny-sdxl", "--prompts", "one.txt", "--prompts", "two.txt", "-p", "a star", *QUICK)[0] == 0
    rows = [json.loads(line) for line in Path("generated/images.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == ["a star", "a red circle", "a blue square"]


def test_a_variant_is_drawn_with_its_name(generate):
    shutil.copytree(find_checkpoint("tiny-sdxl").path, "model")
    for file in Path("model").rglob("*.safetensors"):
        file.rename(file.with_name(f"{file.stem}.fp16.safetensors"))
    code, _, err = generate("model", "-p", "a red circle", *QUICK)
    assert (code, "variant fp16, not none" in err) == (2, True)
    assert generate("model", "-p", "a red circle", "--variant", "fp16", *QUICK)[0] == 0


def test_more_steps_than_noise_levels(generate):
    code, _, err = generate("tiny-sdxl", "-p", "a red circle", "--steps", 1001)
    assert (code, "was trained on 1000 noise levels; take fewer" in err) == (2, True)
