"""`palate data synpic`: what it writes, what it says, several processes, and the mistakes that it answers."""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path

import pytest
import torch

from palate.cli import main
from palate.datasets.parquet import read_groups
from palate.datasets.shapes.prompts import draw_prompts
from palate.t2i.models.checkpoint import find_checkpoint
from palate.t2i.models.model import TextToImageModel
from palate.t2i.models.policy import LoraPolicy, LoraSettings

PROMPTS = [prompt.text for prompt in draw_prompts(3, 0, held_out=False)]
BASIC = ("prompts.txt", "--from", "tiny-sdxl,tiny-sd3", "--with", "shapes_oracle", "--out", "groups", "--steps", 1)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """One thread, no hub, no processes but this one; and what is imported is no garbage."""
    torch.set_num_threads(1)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def palate(monkeypatch, capsys, tmp_path):
    """`palate("data", "synpic", ...)` gives the exit code, stdout and stderr, in a folder with `prompts.txt`."""
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("\n".join(PROMPTS), encoding="utf-8")

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["palate", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0), *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def lora(tmp_path_factory) -> Path:
    """A LoRA of the tiny SDXL whose weights are not zero."""
    model = TextToImageModel(find_checkpoint("tiny-sdxl"))
    policy = LoraPolicy(model.network, model.checkpoint, LoraSettings(rank=2))
    with torch.no_grad():
        for weight in policy.network.parameters():
            if weight.requires_grad:
                weight.fill_(0.3)
    policy.save(folder := tmp_path_factory.mktemp("lora"))
    return folder


def test_one_model_twice_with_its_own_settings(palate, lora):
    arguments = ("prompts.txt", "--from", "base=tiny-sdxl", "--from", "tuned=tiny-sdxl,tiny-sd3")
    arguments += ("--lora", f"tuned={lora}", "--steps", "tiny-sd3=2", "--steps", 1, "--guidance", "tuned=1.5")
    arguments += ("--images", "base=2", "--with", "shapes_oracle,sharpness", "--seed", 7, "--out", "groups")
    code, out, err = palate("data", "synpic", *arguments)
    assert code == 0, err
    assert out.splitlines()[0] == (
        "3 groups of 4 candidates, labelled by win(shapes_oracle, sharpness), in groups "
        "(12 pictures drawn, 0 already there)"
    )
    groups = list(read_groups("groups"))
    assert [group.prompt for group in groups] == PROMPTS
    assert groups[0].model == ("tiny-sdxl", "tiny-sdxl", f"tiny-sdxl + {lora}", "tiny-sd3")
    rows = [json.loads(line) for line in Path("groups.pictures/images.jsonl").read_text().splitlines()][:4]
    assert [(row["steps"], row["guidance"], row["lora"]) for row in rows] == [
        (1, 5.0, None),
        (1, 5.0, None),
        (1, 1.5, str(lora)),
        (2, 7.0, None),
    ]
    assert len({row["weights"] for row in rows}) == 3
    assert len({data for group in groups for data in group.candidates}) == 12

    code, out, _ = palate("data", "synpic", *arguments, "--json")
    told = json.loads(out)
    assert (code, told["drawn"], told["kept"], told["groups"], told["left_out"]) == (0, 0, 12, 3, [])
    code, out, _ = palate("data", "check", "groups", "--json", "--no-sheet")
    assert (code, json.loads(out)["candidates"]) == (0, 12)
    relabel = ("groups.pictures", "--scores", "groups.scores", "--combine", "rank", "--out", "ranked")
    assert palate("data", "label", *relabel)[0] == 0
    assert [group.candidates for group in read_groups("ranked")] == [group.candidates for group in groups]


def test_several_processes(palate, monkeypatch):
    """As `accelerate launch` tells them by the environment, and by --shard; the last to end writes the groups."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, out, err = palate("data", "synpic", *BASIC, "--batch-size", 1)
    assert (code, out) == (0, "2 pictures drawn, 0 already there; the last of the shards writes the groups\n")
    assert err == ""  # the first of the processes shows how far they are
    code, out, err = palate("data", "synpic", *BASIC, "--batch-size", 1, "--shard", "1/2")
    assert (code, out.startswith("3 groups of 2 candidates")) == (0, True)
    assert "drawing with tiny-sd3: 2 of 2" in err


def test_what_is_left_out_is_named(palate, monkeypatch):
    monkeypatch.setattr("palate.t2i.build.synpic.drawing._FLAT", 256)  # every picture is as good as black
    monkeypatch.setattr("palate.t2i.build.synpic.groups.is_flat", lambda data: False)
    Path("prompts.txt").write_text("\n".join([*PROMPTS, "a cat of another world"]))
    code, out, err = palate("data", "synpic", *BASIC)
    assert code == 0, err
    told = [line for line in err.splitlines() if line.startswith("one colour: 000003-")]
    assert len(told) == 2
    assert told[1].startswith("one colour: 000003-1.png by tiny-sd3, seed ")
    assert told[1].endswith(", 'a cat of another world'")
    first, *_ = (line for line in out.splitlines() if "left out" in line)
    assert first == "1 group left out, for 2 pictures:"
    assert "  000003-0.png by tiny-sdxl, seed " in out
    assert out.count("no score (") == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("absent.txt", *BASIC[1:]), "the prompt file absent.txt does not exist"),
        (("empty.txt", *BASIC[1:]), "the prompt file empty.txt holds no prompts"),
        ((*BASIC, "--from", "tiny-sdxl"), "--from names tiny-sdxl twice; give each a name of its own"),
        ((*BASIC, "--from", "=tiny-sdxl"), "--from is '=tiny-sdxl'; it is MODEL or NAME=MODEL"),
        ((*BASIC, "--from", "tiny-sdlx"), "there is no folder tiny-sdlx"),
        ((*BASIC, "--with", "oracle"), "there is no scorer 'oracle'; did you mean"),
        ((*BASIC, "--with", ""), "there are no scorers; name at least one"),
        ((*BASIC, "--steps", "few"), "--steps is 'few'; it is a number, or NAME=NUMBER for one model"),
        (
            (*BASIC, "--steps", "sd3=4"),
            "--steps is 'sd3=4', and no model is called 'sd3'; they are tiny-sdxl, tiny-sd3",
        ),
        ((*BASIC, "--images", "tiny-sd3=0"), "tiny-sd3: images is 0; it must be 1 or more"),
        (
            (*BASIC, "--lora", "tiny-sd3=nowhere.safetensors"),
            "the LoRA nowhere.safetensors does not exist; give a file",
        ),
        ((*BASIC, "--weights", "shapes_oracle=x"), "shapes_oracle has no asset 'weights'; it has none"),
        ((*BASIC, "--shard", "3/2"), "--shard is '3/2'; it is I/N with I from 1 to N"),
        ((*BASIC, "--device", "abacus"), "--device 'abacus' is not here"),
        ((*BASIC, "--out", "used"), "used is not empty, and no Syn-Pic run began there; name another --out"),
        ((*BASIC, "--out", "empty.txt"), "empty.txt is a file, and the groups need a folder of that name"),
    ],
)
def test_a_users_mistake_is_one_line_and_leaves_nothing(palate, arguments, told):
    Path("empty.txt").write_text("\n \n")
    Path("used").mkdir()
    Path("used/note.txt").touch()
    before = sorted(Path().rglob("*"))
    code, out, err = palate("data", "synpic", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"palate: {told}"), err
    assert err.count("\n") == 1
    assert sorted(Path().rglob("*")) == before


def test_one_is_no_plural(palate):
    Path("prompts.txt").write_text(f"{PROMPTS[0]} {'very ' * 80}blue")
    code, out, err = palate("data", "synpic", *BASIC, "--from", "more=tiny-sdxl", "--with", "sharpness")
    assert code == 0
    assert out == "1 group of 3 candidates, labelled by win(sharpness), in groups (3 pictures drawn, 0 already there)\n"
    assert "the text encoder of tiny-sdxl does not read 1 prompt to the end: too long\n" in err


def test_other_settings_for_the_same_folder(palate):
    assert palate("data", "synpic", *BASIC, "--shard", "1/2")[0] == 0
    code, _, err = palate("data", "synpic", *BASIC, "--guidance", "tiny-sd3=2")
    assert code == 2
    assert err == (
        "palate: groups.pictures was begun with other settings: generators tiny-sd3 guidance was 7.0 and is 2.0; "
        "give the same, or name another --out\n"
    )
