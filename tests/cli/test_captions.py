"""`palate data captions`: what it writes is sound and can be trained on, and the mistakes that it answers."""

from __future__ import annotations

import io
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from palate.cli import main
from palate.datasets.group import Group
from palate.datasets.parquet import read_groups, write_groups
from palate.datasets.shapes.oracle import judge
from palate.datasets.shapes.prompts import draw_prompts, draw_scene
from palate.datasets.shapes.world import render

RECIPE = """
model: {path: tiny-sdxl, lora: {rank: 2}}
data: {path: dual, cache: cache}
method: {name: diffusion_dpo, beta: 500}
training: {steps: 2, batch_size: 2, workers: 0}
validation: {prompts: [a photo of a red circle], steps: 1}
output: {folder: run}
"""
LEFT_OUT = "groups left out: 1 tie\n"


@pytest.fixture
def palate(monkeypatch, capsys, tmp_path):
    """`palate("groups", ...)` gives `data captions`' exit code, stdout and stderr, in a folder with six groups."""
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    rng, prompts = np.random.default_rng(0), draw_prompts(7, 0, held_out=False)
    drawn = [_png(render(draw_scene(prompt, rng))) for prompt in prompts]
    groups = [
        Group(key=f"g{i}", prompt=prompts[i].text, candidates=(drawn[i + 1], drawn[i]), labels=(0, i > 0))
        for i in range(6)
    ]
    write_groups(iter(groups), "groups")

    def call(*arguments: object, verb: tuple[str, ...] = ("data", "captions")) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["palate", *verb, *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0), *capsys.readouterr()

    return call


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def vlm_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("vlm")
    runpy.run_path(str(Path(__file__).parents[1] / "rewards/vlm/conftest.py"))["build_qwen"](folder)
    return folder


def test_from_groups_to_a_trained_model(palate):
    code, out, err = palate("groups", "--out", "dual", "--mode", "perturb", "--strength", "strong", "--seed", 3)
    assert code == 0, err
    assert out.startswith("5 groups with captions (perturb) to 1 shard in dual")
    assert out.endswith("groups left out: 1 tie\n  g0: tie\n")
    for group in read_groups("dual"):
        loser, winner = group.captions
        assert winner == group.prompt
        picture = Image.open(io.BytesIO(group.candidates[1]))
        assert (judge(winner, picture).correct, judge(loser, picture).correct) == (True, False)
    told = json.loads(Path("dual/captions.json").read_text())
    assert told["perturber"] == {"model": "rules", "strength": "strong", "share": 0.8, "seed": 3}
    code, out, _ = palate("dual", "--json", "--no-sheet", verb=("data", "check"))
    assert (code, json.loads(out)["preferences"]) == (0, 5)
    Path("recipe.yaml").write_text(RECIPE)
    code, _, err = palate("recipe.yaml", verb=("train",))
    assert code == 0, err
    assert list(Path("run/final").glob("*.safetensors"))


def test_the_same_command_again_is_done(palate):
    arguments = ("groups", "--out", "dual", "--mode", "perturb", "--limit", 2)
    first, again = palate(*arguments), palate(*arguments)
    assert first[:2] == (0, "1 group with captions (perturb) to 1 shard in dual (0.0 MB)\n" + LEFT_OUT + "  g0: tie\n")
    assert again == (0, "1 group with captions (perturb) to 1 shard in dual (0.0 MB)\n" + LEFT_OUT, "")
    code, _, err = palate(*arguments, "--strength", "weak")
    assert (code, err) == (2, "palate: dual is not empty: name another folder, or overwrite it (--overwrite)\n")


def test_tpo_in_json(palate):
    code, out, err = palate("groups", "--out", "tpo", "--mode", "tpo", "--perturber", "rules", "--json")
    assert code == 0, err
    fields = json.loads(out)
    assert (fields["mode"], fields["groups"], fields["asked"], fields["left_out"]) == ("tpo", 5, 0, {"tie": 1})
    assert all(len(set(group.candidates)) == 1 and group.labels == (1, 0) for group in read_groups("tpo"))


def test_a_captioner_is_asked_once(palate, vlm_folder):
    arguments = ("groups", "--captioner", vlm_folder, "--caption-template", "Say: {prompt}", "--caption-tokens", 14)
    first = palate(*arguments, "--out", "dual", "--mode", "caption", "--limit", 3, "--json")
    assert first[0] == 0, first[2]
    assert json.loads(first[1])["asked"] == 6
    assert "captioning: 3 of 3" in first[2]
    again = palate(*arguments, "--out", "dual", "--mode", "caption", "--limit", 4, "--json", "--overwrite")
    assert json.loads(again[1])["asked"] == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--mode", "dual"), "there is no mode 'dual'; there are caption, perturb, hybrid, tpo"),
        (("--mode", "caption"), "mode caption needs a captioner: the folder or the hub id of a vision-language chat"),
        (("--mode", "hybrid"), "these groups have no captions, so mode hybrid needs a captioner: the folder or the"),
        (("--mode", "perturb", "--captioner", "m"), "mode perturb keeps the prompts: leave the captioner out"),
        (("--mode", "caption", "--captioner", "m", "--perturber", "rules"), "mode caption changes no caption: leave"),
        (("--mode", "caption", "--captioner", "groups"), "groups cannot be loaded as a vision-language model ("),
        (("--mode", "perturb", "--perturber", "groups"), "groups cannot be loaded as a language model ("),
        (("--mode", "perturb", "--perturber", "/none"), "there is no folder /none; give the model's folder"),
        (("--mode", "perturb", "--strength", "brutal"), "there is no strength 'brutal'; there are weak, medium, str"),
        (("--mode", "perturb", "--top-p", ".5"), "--top-p is for a model: name one by --perturber"),
        (("--mode", "perturb", "--perturb-template", "{prompt}"), "--perturb-template is for a model: name one by"),
        (("--mode", "perturb", "--caption-template", "{prompt}"), "--caption-template is for a captioner, and there"),
        (("--mode", "perturb", "--perturber", "m", "--perturb-template", "x"), "the template 'x' is neither a text"),
        (("--mode", "perturb", "--perturber", "m", "--top-p", "2"), "top-p is 2; it is a share of probability, above"),
        (("--mode", "perturb", "--out", "used"), "used is not empty: name another folder, or overwrite it"),
        (("--mode", "perturb", "--dtype", "int8"), "--dtype is 'int8'; it is float32, bfloat16 or float16"),
    ],
)
def test_a_users_mistake_is_one_line_and_leaves_nothing(palate, arguments, told):
    Path("used").mkdir()
    Path("used/note.txt").touch()
    before = sorted(Path().rglob("*"))
    code, out, err = palate("groups", "--out", "x", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"palate: {told}"), err
    assert err.count("\n") == 1
    assert sorted(Path().rglob("*")) == before
