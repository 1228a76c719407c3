"""Bad input, end to end through `palate train`: one clear line, the right exit code, nothing written half.

Exit code 2 is the user's mistake, 1 is the world's (a full disk, lost memory, damaged data found while training).
"""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from palate.datasets.parquet import write_groups
from palate.t2i.models.checkpoint import find_checkpoint

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder_2/model.safetensors"


def left_half(folder: Path) -> list[Path]:
    """What a writer leaves that did not come to its end."""
    return [path for path in folder.rglob("*") if re.search(r"\.partial-|\.part$|\.tmp$", path.name)]


def finished(folder: str = "run") -> bool:
    """Whether a run has its final weights and says so."""
    return Path(folder, "summary.json").is_file() and Path(folder, "final").is_dir()


# The checkpoint


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """A copy of the tiny SDXL, to be damaged."""
    return Path(shutil.copytree(find_checkpoint("tiny-sdxl").path, tmp_path / "model"))


def test_an_untouched_copy_trains(train, checkpoint):
    ended = train(f"model.path={checkpoint}")
    assert (ended.code, finished()) == (0, True), ended.err


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/no/such/folder", "there is no folder /no/such/folder"),
        ("./missing", "there is no folder ./missing"),
        ("nobody/nothing", "there is no folder nobody/nothing, and the Hugging Face hub cannot be reached"),
        ("two words", "and it is no hub id (owner/name) either"),
        ("empty", "empty is not a diffusers folder: it has no model_index.json (a single-file checkpoint"),
        ("model.safetensors", "model.safetensors is a file; palate takes a diffusers folder"),
    ],
)
def test_not_a_checkpoint(train, path, told):
    Path("empty").mkdir()
    Path("model.safetensors").write_bytes(b"weights")
    ended = train(f"model.path={path}")
    assert ended.code == 2
    assert told in ended.told
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("model_index.json", '{"_class_name": "FluxPipeline"}', "is a FluxPipeline, which palate does not train"),
        ("model_index.json", "{}", "which palate does not train"),
        ("model_index.json", '{"_class_name": "StableDiffu', "model_index.json is not valid JSON"),
        ("model_index.json", "[1]", "model_index.json is not a JSON object"),
        ("model_index.json", b"\xff\xfe\x00", "model_index.json is not valid JSON"),
        (
            "model_index.json",
            '{"_class_name": "StableDiffusionXLPipeline"}',
            "model_index.json names no scheduler, text_encoder, ",
        ),
        ("vae/config.json", "{}", "vae/config.json has no latent_channels"),
        ("vae/config.json", "", "config.json is not valid JSON"),
        ("unet/config.json", "{}", "unet/config.json has no sample_size"),
        ("scheduler/scheduler_config.json", '{"_class_name": "X"}', "holds no betas"),
        ("vae/config.json", None, "is not a diffusers folder: it has no vae/config.json"),
        ("scheduler/scheduler_config.json", None, "it has no scheduler/scheduler_config.json"),
    ],
)
def test_a_folder_that_is_not_whole(train, checkpoint, file, content, told):
    (checkpoint / file).unlink()
    if content is not None:
        (checkpoint / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    ended = train(f"model.path={checkpoint}")
    assert ended.code == 2
    assert told in ended.told
    assert not Path("run").exists()


def test_another_family(train):
    ended = train("model.family=sd3")
    assert ended.code == 2
    assert "model.family says sd3, but " in ended.told
    assert "is of family sdxl; drop the key or correct it" in ended.told
    ended = train("model.family=sdx1")
    assert ended.code == 2
    assert "model.family: 'sdx1' is unknown; palate knows sd1, sd2, sdxl, sd3" in ended.told
    assert not Path("run").exists()


@pytest.mark.parametrize("file", [UNET, VAE, TEXT])
@pytest.mark.parametrize("damage", ["cut", "empty", "header", "missing"])
def test_damaged_weights_are_found_before_anything_is_encoded(train, checkpoint, file, damage):
    data = (checkpoint / file).read_bytes()
    (checkpoint / file).unlink()
    if damage != "missing":
        kept = {"cut": data[: len(data) // 2], "empty": b"", "header": b"\xff" * 8 + data[8:]}[damage]
        (checkpoint / file).write_bytes(kept)
    ended = train(f"model.path={checkpoint}", "data.cache=cold")
    assert ended.code == 2
    assert str(checkpoint) in ended.told
    assert file.split("/")[0] in ended.told
    if damage != "missing":
        assert "copy it again" in ended.told
        assert not Path("cold").exists()
    assert not Path("run").exists()


def test_a_home_relative_path_is_understood(train, checkpoint, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    ended = train("model.path=~/model")
    assert (ended.code, finished()) == (0, True), ended.err


def test_lora_targets_that_match_nothing(train):
    ended = train("model.lora.targets=[to_z]", "data.cache=cold")
    assert ended.code == 2
    assert "model.lora.targets: no layer of unet matches ['to_z']" in ended.told
    assert not Path("run").exists()
    assert not Path("cold").exists()  # said before hours of encoding


def test_xformers_without_xformers(train):
    ended = train("model.attention=xformers", "data.cache=cold")
    assert ended.code == 2
    assert "model.attention: xformers cannot be used here" in ended.told
    assert "set model.attention=sdpa" in ended.told
    assert not Path("run").exists()
    assert not Path("cold").exists()


# The data


def with_groups(groups: list[Any], folder: str = "groups") -> str:
    write_groups(iter(groups), folder)
    return f"data.path={folder}"


def pixel() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1)).save(buffer, "PNG")
    return buffer.getvalue()


def with_loser(group: Any, picture: bytes) -> Any:
    return dataclasses.replace(group, candidates=(picture, group.candidates[1]))


def test_bad_pictures_in_good_data_are_named_and_skipped(train, shape_groups):
    groups = shape_groups(8)
    groups[2] = with_loser(groups[2], pixel())
    groups[4] = with_loser(groups[4], b"")
    groups[5] = with_loser(groups[5], groups[5].candidates[0][:60])
    for cache in ("data.cache=cold", "data.cache=null"):
        ended = train(with_groups(groups, f"groups-{cache}"), cache, f"output.folder=run-{cache}")
        assert (ended.code, finished(f"run-{cache}")) == (0, True), ended.err
        assert "5 groups are used, 3 left out: 3 unreadable image" in ended.err
        assert "g2: unreadable image (candidate 0: too small: 1 x 1" in ended.err
        assert "g4: unreadable image (candidate 0: 0 bytes)" in ended.err
        assert "g5: unreadable image (candidate 0: " in ended.err


def test_missing_files_of_a_table_are_named_and_skipped(train, shape_groups):
    rows = []
    for group in shape_groups(6):
        for name, picture in zip("lw", group.candidates, strict=True):
            Path(f"{group.key}{name}.png").write_bytes(picture)
        rows.append({"prompt": group.prompt, "chosen": f"{group.key}w.png", "rejected": f"{group.key}l.png"})
    Path("g3w.png").unlink()
    Path("table.jsonl").write_text("\n".join(map(json.dumps, rows)))
    ended = train("data.path=table.jsonl", "data.cache=cold")
    assert (ended.code, finished()) == (0, True), ended.err
    assert "table.jsonl:4: missing file" in ended.err


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda groups: with_groups(groups[:0]), "groups"),
        (lambda groups: with_groups([dataclasses.replace(g, labels=(1, 1)) for g in groups]), "all are ties"),
        (
            lambda groups: with_groups([with_loser(g, pixel()) for g in groups]),
            "4 unreadable image; `palate data check",
        ),
        (
            lambda groups: with_groups(
                [dataclasses.replace(g, candidates=g.candidates[:1], labels=(1,)) for g in groups]
            ),
            "compares at least 2 candidates and these have fewer",
        ),
        (lambda groups: "data.path=nowhere", "'nowhere' does not exist: give a file, a folder, a pattern or a hub id"),
        (lambda groups: "data.path=empty", "cannot tell what 'empty' holds"),
        (lambda groups: "data.path=empty.csv", "nothing to convert in 'empty.csv': it holds no groups"),
        (lambda groups: "data.path=cut.parquet", "cut.parquet is not a whole Parquet file"),
        (lambda groups: "data.path=recipe.yaml", "cannot tell what 'recipe.yaml' holds"),
        (lambda groups: "data.format=zip", "unknown format 'zip': choose one of parquet, pickapic"),
        (lambda groups: "data.split=tset", "no split 'tset' at "),
    ],
    ids=["zero", "ties", "unreadable", "single", "missing", "folder", "header", "cut", "foreign", "format", "split"],
)
def test_data_that_cannot_be_trained_on(train, shape_groups, make, told):
    Path("empty").mkdir()
    Path("empty.csv").write_text("prompt,chosen,rejected\n")
    Path("cut.parquet").write_bytes(b"PAR1half")
    ended = train(make(shape_groups(4)), "data.cache=cold")
    assert ended.code == 2
    assert told in ended.told
    assert not Path("run").exists()
    assert left_half(Path()) == []


@pytest.mark.parametrize("cache", ["cold", "null"])
def test_prompts_longer_than_the_encoder_are_counted_once(train, shape_groups, cache):
    groups = [dataclasses.replace(group, prompt="a red circle " * 100) for group in shape_groups(3)]
    groups += shape_groups(3, seed=1)
    groups = [dataclasses.replace(group, key=f"k{i}") for i, group in enumerate(groups)]
    ended = train(with_groups(groups), f"data.cache={cache}")
    assert (ended.code, finished()) == (0, True), ended.err
    (line,) = [line for line in ended.err.splitlines() if "longer than the text encoder reads" in line]
    assert line.startswith("1 of ")  # prompts, of which three groups share the long one


@pytest.mark.parametrize(("override", "told"), [("data.resolution=34", "34"), ("data.resolution=4", "8")])
def test_a_resolution_that_the_autoencoder_cannot_divide(train, override, told):
    ended = train(override)
    assert ended.code == 2
    assert "data.resolution" in ended.told
    assert told in ended.told
    assert not Path("run").exists()


def test_a_resolution_that_the_transformer_cannot_cut_into_patches(train):
    ended = train("model.path=tiny-sd3", "data.resolution=36", "data.cache=cold")
    assert ended.code == 2
    assert "data.resolution is 36, but " in ended.told
    assert "takes multiples of 8 pixels" in ended.told
    assert not Path("run").exists()


def test_a_holdout_that_leaves_nothing(train, shape_groups):
    same = [dataclasses.replace(group, prompt="a red circle") for group in shape_groups(3)]
    ended = train(with_groups(same), "data.holdout=0.5", "data.cache=cold")
    assert ended.code == 2
    assert re.search(r"data.holdout=0.5 would hold (every|no) prompt out of 3 groups", ended.told)
    assert not Path("run").exists()


# The run


def test_an_output_folder_with_another_recipe(train):
    assert train().code == 0
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    ended = train("method.beta=1", "data.variants=2", "data.cache=cold")
    assert ended.code == 2
    assert "run holds a run with another recipe: " in ended.told
    assert "method.beta (2000.0 there, 1.0 now)" in ended.told
    assert "choose another output folder" in ended.told
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before
    assert not Path("cold").exists()  # said before the data are encoded anew


def test_an_output_folder_that_is_a_file(train):
    Path("run").write_text("mine")
    ended = train()
    assert ended.code == 2
    assert "the output folder run cannot be made" in ended.told
    assert Path("run").read_text() == "mine"


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_during_a_checkpoint(train, monkeypatch):
    assert train("training.steps=1").code == 0
    good = sorted(Path("run/checkpoints").iterdir())
    with monkeypatch.context() as patch:
        patch.setattr("palate.training.checkpoint.save_file", full)
        ended = train("training.steps=2")
    assert ended.code == 1
    assert "No space left on device while writing checkpoint run/checkpoints/step-00000002" in ended.told
    assert "free some space and run the same command again" in ended.told
    assert sorted(Path("run/checkpoints").iterdir()) == good
    assert left_half(Path()) == []
    assert train("training.steps=2").code == 0
    assert finished()


def test_a_full_disk_while_encoding(train, monkeypatch):
    monkeypatch.setattr("palate.t2i.cache.save_file", full)
    ended = train("data.cache=cold")
    assert ended.code == 1
    assert "the cache cold cannot be written (No space left on device); free some space" in ended.told
    assert not Path("run").exists()
    assert left_half(Path()) == []


@pytest.mark.parametrize(
    "place", ["training.loop.whole_folder", "t2i.finish.write_model_card", "t2i.finish.save_kohya"]
)
def test_a_full_disk_at_the_end(train, monkeypatch, place):
    with monkeypatch.context() as patch:
        patch.setattr(f"palate.{place}", full)
        ended = train("output.kohya=true")
    assert ended.code == 1
    assert "No space left on device" in ended.told
    again = train("output.kohya=true")
    assert (again.code, finished()) == (0, True), again.err
    assert Path("run/final/README.md").is_file()


def test_a_checkpoint_cut_in_half_is_passed_over(train):
    assert train().code == 0
    shutil.rmtree("run/final")
    Path("run/summary.json").unlink()
    weights = Path("run/checkpoints/step-00000002/weights.safetensors")
    whole = {name: weight.clone() for name, weight in load_file(weights).items()}  # they lie in the file itself
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.warns(UserWarning, match=r"step-00000002 is skipped: weights.safetensors has \d+ bytes instead of"):
        ended = train()
    assert (ended.code, finished()) == (0, True), ended.err
    again = load_file(weights)
    assert all(torch.equal(again[name], whole[name]) for name in whole)  # from step 1 on, to the same end


def latents(cache: Path) -> list[Path]:
    """The cached pictures; the other entries are prompts."""
    return [file for file in cache.rglob("*.safetensors") if "mean" in load_file(file)]


def test_not_a_number_in_a_batch(train):
    assert train("data.cache=cold", "training.steps=1").code == 0
    for file in latents(Path("cold")):
        entry = load_file(file)
        entry["mean"][0, 0, 0] = torch.nan
        save_file(entry, file)
    good = sorted(Path("run/checkpoints").iterdir())
    ended = train("data.cache=cold", "training.steps=3")
    assert ended.code == 1
    assert "the loss of step 2 is nan (visits 2 to 3)" in ended.told
    assert "the last good checkpoint is kept" in ended.told
    assert sorted(Path("run/checkpoints").iterdir()) == good
    assert left_half(Path()) == []


def test_a_damaged_cache_entry_is_encoded_anew(train):
    assert train("data.cache=cold", "training.steps=1").code == 0
    whole = {file: file.read_bytes() for file in latents(Path("cold"))}
    for file, data in whole.items():
        file.write_bytes(data[:100])
    ended = train("data.cache=cold")
    assert (ended.code, finished()) == (0, True), ended.err
    assert {file: file.read_bytes() for file in latents(Path("cold"))} == whole


@pytest.mark.parametrize("workers", [0, 1])
def test_a_cache_entry_that_is_lost_while_training(train, monkeypatch, workers):
    monkeypatch.setattr("palate.t2i.cache.TensorCache.get", lambda *_: None)
    ended = train(f"training.workers={workers}")
    assert ended.code == 1
    assert re.search(r"the cache entry \S+ is gone or damaged; run the same command again", ended.told)
    assert left_half(Path()) == []


_GPU = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
_CPU = RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried")


@pytest.mark.parametrize("error", [_GPU, _CPU, MemoryError()], ids=["gpu", "cpu", "python"])
@pytest.mark.parametrize(
    "place",
    [
        "palate.t2i.models.model.TextToImageModel.encode_prompts",
        "diffusers.UNet2DConditionModel.from_pretrained",
        "palate.t2i.task.AlignmentTask.loss",
    ],
    ids=["encoding", "loading", "training"],
)
def test_lost_memory(train, monkeypatch, place, error):
    def lost(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(place, lost)
    ended = train("data.cache=cold")
    assert ended.code == 1
    assert "out of memory" in ended.told
    assert left_half(Path()) == []
    assert not finished()
