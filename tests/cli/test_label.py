"""`palate data label`: what it writes is sound and can be trained on, and the mistakes that it answers."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from palate.cli import main
from palate.datasets.parquet import read_groups
from palate.datasets.shapes.oracle import judge
from palate.datasets.shapes.prompts import draw_prompts, draw_scene
from palate.datasets.shapes.world import render

RECIPE = """
model: {path: tiny-sdxl, lora: {rank: 2}}
data: {path: groups, cache: cache}
method: {name: diffusion_dpo, beta: 2000}
training: {steps: 2, batch_size: 2, workers: 0}
validation: {prompts: [a photo of a red circle], steps: 1}
output: {folder: run}
"""


@pytest.fixture
def palate(monkeypatch, capsys, tmp_path):
    """`palate("data", "label", ...)` gives the exit code, stdout and stderr, in a folder of its own."""
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["palate", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0), *capsys.readouterr()

    return call


@pytest.fixture
def drawn(tmp_path) -> list[str]:
    """The folder `drawn`, laid out as `palate generate` does: for each of 8 prompts a right picture and two wrong."""
    folder, rng, rows = tmp_path / "drawn", np.random.default_rng(0), []
    folder.mkdir()
    prompts = draw_prompts(10, 0, held_out=False)
    for number, prompt in enumerate(prompts[:8]):
        for seed, shown in enumerate(prompts[number : number + 3]):
            image = f"{number}-{seed}.png"
            render(draw_scene(shown, rng)).save(folder / image)
            rows.append({"prompt": prompt.text, "seed": seed, "model": "tiny-sdxl", "image": image})
    (folder / "images.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return [prompt.text for prompt in prompts[:8]]


def test_from_pictures_to_a_trained_model(palate, drawn):
    code, out, err = palate("data", "label", "drawn", "--with", "shapes_oracle", "--combine", "sum", "--out", "groups")
    assert code == 0, err
    assert out.startswith("8 groups with 24 candidates in all, labelled by sum(shapes_oracle), to 1 shard(s) in groups")
    groups = list(read_groups("groups"))
    assert [group.prompt for group in groups] == drawn
    for number, group in enumerate(groups):
        pictures = [Image.open(f"drawn/{number}-{seed}.png") for seed in range(3)]
        truth = np.array([judge(group.prompt, picture).score for picture in pictures])
        assert group.aspects["shapes_oracle"] == pytest.approx(tuple(truth), abs=1e-7)
        np.testing.assert_allclose(group.labels, (truth - truth.mean()) / truth.std(), atol=1e-6)
        assert (group.model, group.seed) == (("tiny-sdxl",) * 3, (0, 1, 2))

    code, out, err = palate("data", "check", "groups", "--json", "--no-sheet")
    assert code == 0, out
    report = json.loads(out)
    assert (report["groups"], report["candidates"], report["preferences"]) == (8, 24, 8)
    assert report["wins_by_position"] == {"0": 8}

    Path("recipe.yaml").write_text(RECIPE)
    code, _, err = palate("train", "recipe.yaml")
    assert code == 0, err
    assert list(Path("run/final").glob("*.safetensors"))


def test_the_summary_tells_ties_and_what_is_left_out(palate, drawn):
    for image in ("0-1.png", "0-2.png", "1-0.png"):
        Path("drawn", image).write_bytes(b"no picture")
    arguments = ("data", "label", "drawn", "--with", "sharpness,jpeg_size", "--combine", "frontier", "--out", "groups")
    code, out, err = palate(*arguments)
    assert code == 0, err
    assert "prompts left out: 1 fewer than two candidates" in out
    assert "pictures left out: 3 no score\n  0-1.png: no score (not an image of a format that is read: PNG, " in out
    code, out, _ = palate(*arguments, "--overwrite", "--json")
    fields = json.loads(out)
    assert (code, fields["rater"], fields["groups"]) == (0, "frontier(sharpness, jpeg_size)", 7)
    assert (fields["candidates"], fields["pictures_left_out"]) == (20, {"no score": 3})
    assert fields["ties"] == sum(group.is_tie for group in read_groups("groups"))


def test_scores_that_are_there(palate, drawn):
    assert palate("score", "drawn", "--with", "shapes_oracle,sharpness", "--out", "scores")[0] == 0
    arguments = ("data", "label", "drawn", "--scores", "scores", "--weigh", "shapes_oracle=3")
    code, out, err = palate(*arguments, "--out", "both", "--combine", "rank")
    assert (code, "labelled by rank(3 shapes_oracle, sharpness)" in out) == (0, True), err
    assert not Path("both.scores").exists()
    code, _, err = palate(*arguments, "--with", "shapes_oracle", "--out", "one")
    assert code == 0, err
    assert {tuple(group.aspects) for group in read_groups("one")} == {("shapes_oracle",)}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("drawn", "--out", "x"), "name the scorers, such as --with pickscore,hpsv2.1, or --scores FILE"),
        (("drawn", "--out", "x", "--with", "pickscor"), "there is no scorer 'pickscor'; did you mean pickscore?"),
        (("drawn", "--out", "x", "--with", "sharpness", "--combine", "best"), "there is no combination 'best'; known"),
        (("drawn", "--out", "x", "--with", "sharpness", "--weigh", "sharpness"), "--weigh is 'sharpness'; it is NAME="),
        (("drawn", "--out", "x", "--with", "sharpness", "--weigh", "sharp=2"), "there is a weight for sharp, which is"),
        (("drawn", "--out", "x", "--scores", "s", "--weights", "pickscore=p"), "--weights is for scoring, and with"),
        (("drawn", "--out", "x", "--scores", "s"), "s does not exist; give a scores.parquet"),
        (("drawn", "--out", "drawn", "--with", "sharpness"), "drawn is, or holds, the source itself"),
        (("drawn", "--out", "used", "--with", "sharpness"), "used is not empty: name another folder"),
        (("nowhere", "--out", "x", "--with", "sharpness"), "nowhere does not exist; give a folder"),
    ],
)
def test_a_users_mistake_is_one_line_and_leaves_nothing(palate, drawn, arguments, told):
    Path("used").mkdir()
    Path("used/note.txt").touch()
    before = sorted(Path().rglob("*"))
    code, out, err = palate("data", "label", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"palate: {told}"), err
    assert err.count("\n") == 1
    assert sorted(Path().rglob("*")) == before
