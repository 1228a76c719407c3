"""Syn-Pic: phi by hand, the same bytes however it ran, and groups of one size whatever a model or a reward does."""

from __future__ import annotations

import gc
import io
import json
import math
import multiprocessing
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from palate.datasets.parquet import read_groups
from palate.datasets.shapes.oracle import judge
from palate.datasets.shapes.prompts import draw_prompts
from palate.errors import UserError
from palate.rewards.function import from_function
from palate.rewards.scorer import scorer_of
from palate.t2i.build.synpic.build import SynPic, build_synpic
from palate.t2i.build.synpic.generators import Generator
from palate.t2i.models.checkpoint import find_checkpoint
from palate.t2i.models.model import TextToImageModel

PROMPTS = [prompt.text for prompt in draw_prompts(7, 0, held_out=False)]
SCORERS = ["shapes_oracle", "sharpness"]


@pytest.fixture(scope="module", autouse=True)
def _quick():
    """One thread; and what is imported is no garbage, which is looked for whenever a model is let go."""
    torch.set_num_threads(1)
    gc.freeze()
    yield
    gc.unfreeze()


def generators(**changes) -> list[Generator]:
    """One picture by the tiny SDXL, two by the tiny SD3."""
    return [
        Generator("tiny-sdxl", steps=2, **changes),
        Generator("tiny-sd3", images=2, steps=1, guidance=2.0),
    ]


def build(out: Path, **changes) -> SynPic:
    given = {"prompts": PROMPTS, "generators": generators(), "scorers": SCORERS, "batch_size": 2, "device": "cpu"}
    given |= changes
    return build_synpic(given.pop("prompts"), given.pop("generators"), given.pop("scorers"), out, **given)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[SynPic, Path]:
    """An uninterrupted run and its folder."""
    out = tmp_path_factory.mktemp("whole") / "groups"
    return build(out), out


def contents(out: Path) -> dict[str, bytes]:
    """All that a run leaves, but the scores' logs, which tell in which order blocks were done, and locks."""
    roots = [out, *(out.with_name(f"groups.{what}") for what in ("pictures", "scores"))]
    files = [file for root in roots for file in root.rglob("*") if file.is_file()]
    return {
        str(file.relative_to(out.parent)): file.read_bytes()
        for file in files
        if not file.name.endswith(".lock") and not file.name.startswith("log-")
    }


def picture(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_labels_are_the_mean_win_probability(whole):
    done, out = whole
    assert (done.drawn, done.kept, done.size, done.groups, done.left_out) == (21, 0, 3, 7, ())
    assert done.rater == "win(shapes_oracle, sharpness)"
    groups = list(read_groups(out))
    assert [group.prompt for group in groups] == PROMPTS
    assert done.ties == sum(len(set(group.labels)) == 1 for group in groups)
    for group in groups:
        truth = [judge(group.prompt, picture(data)).score for data in group.candidates]
        assert group.aspects["shapes_oracle"] == pytest.approx(truth, abs=1e-6)
        scores = [group.aspects[name] for name in SCORERS]
        for i, label in enumerate(group.labels):
            beaten = sum(row[i] > row[j] for row in scores for j in range(3))
            assert label == pytest.approx(beaten / (2 * (3 - 1)), abs=1e-8)
        assert (group.model, group.source) == (("tiny-sdxl", "tiny-sd3", "tiny-sd3"), "syn-pic")
    assert len({label for group in groups for label in group.labels}) > 2


def test_a_picture_can_be_drawn_again_from_what_is_said_of_it(whole):
    """By diffusers alone, as a stranger would."""
    from diffusers import StableDiffusion3Pipeline

    _, out = whole
    rows = [json.loads(line) for line in (out.with_name("groups.pictures") / "images.jsonl").read_text().splitlines()]
    groups = list(read_groups(out))
    assert [row["seed"] for row in rows] == [seed for group in groups for seed in group.seed]
    assert len({row["seed"] for row in rows}) == 21
    row = rows[4]
    assert (row["model"], row["prompt"], row["dtype"], row["lora"]) == ("tiny-sd3", PROMPTS[1], "float32", None)
    pipeline = StableDiffusion3Pipeline.from_pretrained(find_checkpoint("tiny-sd3").path, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    drawn = pipeline(
        row["prompt"],
        num_inference_steps=row["steps"],
        guidance_scale=row["guidance"],
        height=row["resolution"],
        width=row["resolution"],
        generator=torch.Generator().manual_seed(row["seed"]),
        max_sequence_length=min(256, pipeline.tokenizer_3.model_max_length),
    ).images[0]
    kept = np.asarray(picture(groups[1].candidates[1])).astype(int)
    assert np.abs(kept - np.asarray(drawn).astype(int)).max() <= 1


def killed_at(stage: str, done: int):
    """An `advance` that dies by SIGKILL when a stage gets so far."""

    def advance(at: str, count: int, total: int) -> None:
        if at == stage and count >= done:
            os.kill(os.getpid(), signal.SIGKILL)

    return advance


def test_killed_at_every_stage_it_ends_in_the_same_bytes(whole, tmp_path):
    out, context = tmp_path / "groups", multiprocessing.get_context("fork")
    for stage, at in (
        ("drawing with tiny-sdxl", 3),  # of a batch of 2 pictures, the first
        ("drawing with tiny-sd3", 5),
        ("scoring", 6),
        ("labelling", 2),
    ):
        process = context.Process(target=build, args=(out,), kwargs={"advance": killed_at(stage, at)})
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL, stage
    (tmp_path / "groups.pictures/.000000-0.png.1.part").write_bytes(b"half")
    done = build(out)
    assert (done.drawn, done.kept, done.groups) == (0, 21, 7)
    assert contents(out) == contents(whole[1])


def test_two_shards_that_end_together_write_the_same_bytes_once(whole, tmp_path):
    out, written = tmp_path / "groups", []

    def other_ends_first(stage: str, done: int, total: int) -> None:
        if (stage, done) == ("scoring", total):
            other = build(out, shard=(1, 2))
            assert (other.drawn, other.groups) == (9, 7)  # blocks 2 and 4 of 2, 2, 2 and 1 prompts
            written.append((out / "groups-00000.parquet").stat().st_mtime_ns)

    done = build(out, shard=(0, 2), advance=other_ends_first)
    assert (done.drawn, done.groups) == (12, 7)
    assert contents(out) == contents(whole[1])
    assert [(out / "groups-00000.parquet").stat().st_mtime_ns] == written


def test_a_finished_run_is_left_alone(whole, monkeypatch):
    monkeypatch.setattr(TextToImageModel, "encode_prompts", lambda *_: pytest.fail("drawn"))
    before = contents(whole[1])
    again = build(whole[1])
    assert (again.drawn, again.kept, again.groups) == (0, 21, 7)
    assert contents(whole[1]) == before
    with pytest.raises(UserError, match=r"is labelled by win\(shapes_oracle, sharpness\); others can label the same"):
        build(whole[1], scorers=["sharpness"])


def test_killed_while_groups_are_written(whole, tmp_path, monkeypatch):
    for name in ("groups", "groups.pictures", "groups.scores"):
        shutil.copytree(whole[1].with_name(name), tmp_path / name)
    out, report = tmp_path / "groups", tmp_path / "groups.pictures/report.json"
    report.write_text(json.dumps({"finished": False, "rater": "win(shapes_oracle, sharpness)"}))
    (out / "groups-00000.parquet").write_bytes(b"older")
    assert build(out).groups == 7
    assert contents(out) == contents(whole[1])


@pytest.fixture
def spoiled(monkeypatch):
    """The tiny SD3's third batch has a black picture, its fourth one with NaN in its latents."""
    decode, calls = TextToImageModel.decode, []

    def spoil(model: TextToImageModel, latents: torch.Tensor) -> list[Image.Image]:
        if model.family.name != "sd3":
            return decode(model, latents)
        calls.append(len(latents))
        if len(calls) == 4:
            latents = latents.clone()
            latents[1] = math.nan
        drawn = decode(model, latents)
        return [Image.new("RGB", (32, 32)), *drawn[1:]] if len(calls) == 3 else drawn

    monkeypatch.setattr(TextToImageModel, "decode", spoil)


def test_black_pictures_and_nan_rewards_cost_their_groups_alone(tmp_path, whole, spoiled):
    sound = list(read_groups(whole[1]))
    disliked = picture(sound[4].candidates[0]).tobytes()

    def moody(prompt: str, image: Image.Image) -> float:
        return math.nan if image.tobytes() == disliked else 1.0

    said: list[str] = []
    scorers = [*SCORERS, scorer_of(from_function("moody", moody))]
    named = [generators()[0], replace(generators()[1], name="the other")]  # a name draws no other pictures
    done = build(tmp_path / "groups", generators=named, scorers=scorers, say=said.append)
    # SD3 draws two pictures for each prompt, two at once: its third batch is the third prompt's.
    assert (done.groups, done.groups_left_out, done.drawn) == (4, 3, 21)
    assert [(one.image, one.model, one.prompt, one.seed, one.reason) for one in done.left_out] == [
        ("000002-1.png", "the other", PROMPTS[2], sound[2].seed[1], "one colour"),
        ("000003-2.png", "the other", PROMPTS[3], sound[3].seed[2], "one colour"),
        ("000004-0.png", "tiny-sdxl", PROMPTS[4], sound[4].seed[0], "no score (moody: the reward returned NaN)"),
    ]
    assert [line.partition(" by ")[0] for line in said] == ["one colour: 000002-1.png", "one colour: 000003-2.png"]
    found = list(read_groups(tmp_path / "groups"))
    assert [group.candidates for group in found] == [sound[i].candidates for i in (0, 1, 5, 6)]
    # A third judge who prefers nothing: the same wins, of three judges' pairs in place of two.
    assert found[2].labels == pytest.approx([label * 2 / 3 for label in sound[5].labels])
    assert build(tmp_path / "groups", generators=named, scorers=scorers).left_out == done.left_out


def test_a_model_that_draws_nothing_but_black(tmp_path):
    """Its weights are NaN, as after an overflow; nothing is lost, and nothing is written as if it were sound."""
    model = Path(shutil.copytree(find_checkpoint("tiny-sd3").path, tmp_path / "broken"))
    file = model / "vae/diffusion_pytorch_model.safetensors"
    save_file({name: tensor * math.nan for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    out = tmp_path / "groups"
    given = {"prompts": PROMPTS[:2], "generators": [*generators()[:1], Generator(str(model), steps=1)]}
    with pytest.raises(UserError, match=r"no group is whole: 2 one colour; the first is 000000-1.png by .*broken"):
        build(out, **given)
    assert not out.exists()
    assert len(list((tmp_path / "groups.pictures").glob("*.png"))) == 4


def test_a_picture_that_is_lost_or_replaced_is_drawn_or_scored_anew(tmp_path):
    out, lost = tmp_path / "groups", "000001-1.png"
    given = {"prompts": PROMPTS[:2], "scorers": ["sharpness"]}
    build(out, **given, shard=(1, 2))  # draws nothing: there is one block
    build(out, **given)
    before = contents(out)
    shutil.rmtree(out)
    (tmp_path / "groups.pictures" / lost).unlink()
    done = build(out, **given)
    assert (done.drawn, done.kept) == (1, 5)
    assert contents(out) == before
    # Who has too little memory goes on with smaller batches: rounded otherwise, by one level of 255 at most.
    shutil.rmtree(out)
    (tmp_path / "groups.pictures" / lost).unlink()
    done = build(out, **given, batch_size=1)
    assert (done.drawn, done.kept, done.groups) == (1, 5, 2)
    drawn, earlier = (picture(files[f"groups.pictures/{lost}"]) for files in (contents(out), before))
    assert np.abs(np.asarray(drawn).astype(int) - np.asarray(earlier)).max() <= 1


def test_prompts_that_come_twice_and_many_at_once(tmp_path, whole, monkeypatch):
    """One group for each prompt; and text encoders that are loaded anew for the last prompt change nothing."""
    monkeypatch.setattr("palate.t2i.build.synpic.drawing._PROMPTS_AT_ONCE", 5)
    assert build(tmp_path / "groups", prompts=[*PROMPTS[:3], PROMPTS[0], *PROMPTS[3:]]).groups == 7
    assert contents(tmp_path / "groups") == contents(whole[1])


def test_changed_settings_are_refused_and_nothing_is_touched(whole, monkeypatch):
    monkeypatch.setattr(TextToImageModel, "encode_prompts", lambda *_: pytest.fail("drawn"))
    before = contents(whole[1])
    for changes, told in (
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"prompts": PROMPTS[:6]}, "prompts was 7 and is 6"),
        ({"prompts": PROMPTS[::-1]}, "digest of the prompts was"),
        ({"generators": generators()[1:]}, "generators were tiny-sdxl, tiny-sd3 and are tiny-sd3"),
        ({"generators": generators(guidance=3.5)}, "generators tiny-sdxl guidance was 5.0 and is 3.5"),
        ({"dtype": "bfloat16"}, "generators tiny-sdxl dtype was float32 and is bfloat16"),
    ):
        with pytest.raises(UserError) as error:
            build(whole[1], **changes)
        assert f"was begun with other settings: {told}" in str(error.value)
        assert "\n" not in str(error.value)
    assert contents(whole[1]) == before


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"prompts": []}, "there are no prompts"),
        ({"prompts": ["a", " "]}, "prompt 2 is empty; leave it out"),
        ({"prompts": ["\ud83d"]}, "prompt 1 is not valid Unicode"),
        ({"generators": []}, "there are no generators"),
        ({"generators": generators()[:1]}, "a group of one picture has nothing to compare"),
        ({"generators": generators()[:1] * 2}, "two generators are called tiny-sdxl; give each a name of its own"),
        ({"generators": [Generator("tiny-sdlx")]}, "there is no folder tiny-sdlx"),
        ({"generators": generators(lora="loras/absent.safetensors")}, "the LoRA loras/absent.safetensors does not"),
        ({"generators": generators(images=0)}, "tiny-sdxl: images is 0; it must be 1 or more"),
        ({"generators": generators(guidance=math.inf)}, "tiny-sdxl: guidance is inf; it must be a finite number"),
        ({"generators": generators(resolution=34)}, "tiny-sdxl: resolution is 34, but tiny-sdxl draws multiples of 8"),
        ({"generators": [Generator("tiny-sd3", steps=1001)]}, "tiny-sd3: steps is 1001, and it was trained on 1000"),
        ({"scorers": []}, "there are no scorers"),
        ({"scorers": ["sharp"]}, "there is no scorer 'sharp'; did you mean sharpness?"),
        ({"scorers": ["sharpness", "sharpness"]}, "a scorer is named twice"),
        ({"shard": (2, 2)}, "shard 2 of 2 is none"),
        ({"batch_size": 0}, "batch_size is 0; it must be 1 or more"),
        ({"dtype": "int8"}, "the dtype is 'int8'"),
    ],
)
def test_mistakes_leave_nothing(tmp_path, monkeypatch, changes, told):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError) as error:
        build(tmp_path / "groups", **changes)
    assert str(error.value).startswith(told), error.value
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["groups", "groups.pictures"])
def test_folders_that_hold_something_else(tmp_path, place):
    (tmp_path / place).mkdir()
    (tmp_path / place / "note.txt").touch()
    with pytest.raises(UserError, match=f"{place} is not empty, and no Syn-Pic run began there; name another --out"):
        build(tmp_path / "groups")
    assert [path.name for path in tmp_path.rglob("*")] == [place, "note.txt"]
