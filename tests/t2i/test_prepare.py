"""Preparation never reads what is out of date: edited preferences, other data, a tokenizer without its words."""

import io
import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from palate.datasets.group import Group
from palate.datasets.open import open_groups
from palate.datasets.parquet import write_groups
from palate.datasets.skips import SkipLog
from palate.datasets.store import GroupStore
from palate.errors import UserError
from palate.t2i.fingerprint import fingerprint, lora_fingerprint, training_fingerprint
from palate.t2i.methods import DiffusionDPO, DiffusionKTO
from palate.t2i.models.checkpoint import find_checkpoint
from palate.t2i.models.model import TextToImageModel
from palate.t2i.plan import make_plan
from palate.t2i.prepare import open_store, prepare, split_by_prompt
from palate.t2i.recipe import DataConfig
from palate.training.run_folder import RunFolder, keep_data, keep_weights, require_same_data, require_same_weights


def quiet(line: str) -> None:
    pass


def make_picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(file, "PNG")
    return file.getvalue()


CONVERT_SLOWLY = """
import sys, time
from pathlib import Path
from palate.datasets import convert
from palate.t2i.prepare import open_store
from palate.t2i.recipe import DataConfig

path, cache, begun, go = sys.argv[1:]
groups_of = convert.open_groups

def slow(*args, **kwargs):
    for number, group in enumerate(groups_of(*args, **kwargs)):
        if number == 2:
            Path(begun).touch()
            while not Path(go).exists():
                time.sleep(0.01)
        yield group

convert.open_groups = slow
open_store(DataConfig(path=path, cache=cache), print)
"""
"""`open_store`, which stands still in the middle of its first shard until there is the file `go`."""


@pytest.fixture
def table(tmp_path, shape_groups):
    """A folder of pictures with a JSONL, as a user keeps it."""
    folder = tmp_path / "pairs"
    (folder / "images").mkdir(parents=True)
    rows = []
    for group in shape_groups(4):
        names = [f"images/{group.key}-{i}.png" for i in range(2)]
        for name, picture in zip(names, group.candidates, strict=True):
            (folder / name).write_bytes(picture)
        rows.append({"prompt": group.prompt, "images": names, "labels": [0, 1]})
    write(folder, rows)
    return folder, rows


def write(folder, rows) -> None:
    (folder / "pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


@pytest.mark.parametrize("source", ["folder", "file"])
def test_edited_labels_are_read_again(table, tmp_path, source):
    folder, rows = table
    (folder / "recipe.yaml").write_text("{}")  # a recipe beside the data does not make a run of the folder
    path = folder if source == "folder" else folder / "pairs.jsonl"
    data = DataConfig(path=str(path), cache=str(tmp_path / "cache"))
    before = [group.labels for group in open_store(data, quiet)]
    assert [group.labels for group in open_store(data, quiet)] == before
    size = (folder / "pairs.jsonl").stat().st_size
    write(folder, [{**row, "labels": [1, 0]} for row in rows])
    assert (folder / "pairs.jsonl").stat().st_size == size
    assert [group.labels for group in open_store(data, quiet)] == [(1.0, 0.0)] * 4


@pytest.mark.parametrize("source", ["folder", "file"])
def test_replaced_pictures_are_read_again_also_behind_a_link(table, tmp_path, source):
    folder, _ = table
    (folder / "images").rename(tmp_path / "elsewhere")
    (folder / "images").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "round").symlink_to(folder)
    path = folder if source == "folder" else folder / "pairs.jsonl"
    data = DataConfig(path=str(path), cache=str(tmp_path / "cache"))
    before = [group.candidates for group in open_store(data, quiet)]
    shutil.copy(folder / "images" / "g2-0.png", folder / "images" / "g1-0.png")
    after = [group.candidates for group in open_store(data, quiet)]
    assert before[1] != after[1]
    assert after[1][0] == after[2][0]


def test_a_run_beside_the_data_does_not_convert_it_anew(table, tmp_path):
    folder, _ = table
    data = DataConfig(path=str(folder / "pairs.jsonl"), cache=str(folder / "cache"))
    open_store(data, quiet)
    (folder / "run" / "samples").mkdir(parents=True)
    (folder / "run" / "checkpoints").mkdir()
    (folder / "run" / "recipe.yaml").write_text("{}")
    shutil.copy(folder / "images" / "g0-0.png", folder / "run" / "samples" / "step-1.png")
    open_store(data, quiet)
    assert len(list((folder / "cache" / "groups").iterdir())) == 1


def test_a_shard_added_to_a_pattern_is_seen(tmp_path, shape_groups):
    groups = shape_groups(4)

    def shard(name, chosen) -> None:
        rows = [
            {"caption": g.prompt, "jpg_0": g.candidates[0], "jpg_1": g.candidates[1], "label_0": 0.0, "label_1": 1.0}
            | {"has_label": True, "image_0_uid": f"{g.key}-0", "image_1_uid": f"{g.key}-1", "ranking_id": i}
            for i, g in enumerate(chosen)
        ]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name)

    shard("a.parquet", groups[:2])
    data = DataConfig(path=str(tmp_path / "*.parquet"), cache=str(tmp_path / "cache"), format="pickapic")
    assert len(open_store(data, quiet)) == 2
    shard("b.parquet", groups[2:])
    assert len(open_store(data, quiet)) == 4


def test_added_pictures_of_two_folders_are_seen(tmp_path, shape_groups):
    folder = tmp_path / "wl"
    groups = shape_groups(6)
    for side in ("w", "l"):
        (folder / side).mkdir(parents=True)

    def add(chosen) -> None:
        for group in chosen:
            for side, picture in zip(("l", "w"), group.candidates, strict=True):
                (folder / side / f"{group.key}.png").write_bytes(picture)
                (folder / side / f"{group.key}.txt").write_text(group.prompt)

    add(groups[:4])
    data = DataConfig(path=str(folder), cache=str(tmp_path / "cache"))
    assert len(open_store(data, quiet)) == 4
    add(groups[4:])
    assert len(open_store(data, quiet)) == 6


def test_a_run_goes_on_with_its_own_data_only(tmp_path):
    folder = RunFolder(tmp_path / "run")
    assert not require_same_data(folder, {"hash": "a", "groups": 4})  # nothing is known of a run that did not begin
    keep_data(folder, {"hash": "a", "groups": 4})
    keep_data(folder, {"hash": "a", "groups": 4})
    with pytest.raises(UserError, match=r"other data \(4 groups then, 5 now.*another output folder"):
        require_same_data(folder, {"hash": "b", "groups": 5})
    assert json.loads(folder.data.read_text())["hash"] == "a"


@pytest.mark.parametrize("name", ["tiny-sdxl", "tiny-sd3"])
def test_a_tokenizer_without_its_words_is_refused(name, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(find_checkpoint(name).path, folder)
    find_checkpoint(str(folder)).require_whole()
    (folder / "tokenizer_2" / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"tokenizer_2 holds no vocabulary"):
        find_checkpoint(str(folder)).require_whole()
    (folder / "tokenizer_2" / "vocab.json").write_text("{}")
    (folder / "tokenizer_2" / "merges.txt").write_text("")
    find_checkpoint(str(folder)).require_whole()


def test_one_process_waits_while_another_converts(table, tmp_path):
    """The other one's half-written shard is its own; what it has written is then read, not converted again."""
    folder, _ = table
    data = DataConfig(path=str(folder), cache=str(tmp_path / "cache"))
    said: list[str] = []
    begun, go = tmp_path / "begun", tmp_path / "go"
    other = subprocess.Popen([sys.executable, "-c", CONVERT_SLOWLY, data.path, str(data.cache), begun, go])
    while not begun.exists():
        assert other.poll() is None
        time.sleep(0.01)

    def say(line: str) -> None:
        said.append(line)
        go.touch()

    groups = len(open_store(data, say))
    assert (groups, other.wait(60)) == (4, 0)
    assert said == [
        f"another process is converting {folder}; waiting for it",
        f"reading the copy of {folder} in {next((tmp_path / 'cache' / 'groups').iterdir())}",
    ]


def test_rows_of_one_id_survive_a_kill_in_the_middle_of_a_conversion(table, tmp_path, monkeypatch):
    folder, rows = table
    write(folder, [{**row, "id": "same"} for row in rows])
    data = DataConfig(path=str(folder), cache=str(tmp_path / "cache"))

    def stop_after_two(*args, **kwargs):
        for number, group in enumerate(open_groups(*args, **kwargs)):
            if number == 2:
                raise KeyboardInterrupt
            yield group

    monkeypatch.setattr("palate.datasets.convert.open_groups", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        open_store(data, quiet)
    monkeypatch.undo()
    assert len(open_store(data, quiet)) == 4


def test_a_prompt_is_wholly_held_out_or_not_at_all_whatever_its_captions(tmp_path):
    """Candidates with captions of their own are still one prompt's."""
    picture = make_picture()
    groups = [
        Group(f"g{i}", f"prompt {i % 20}", (picture, picture), (1.0, 0.0), captions=(f"one {i}", f"other {i}"))
        for i in range(100)
    ]
    write_groups(groups, tmp_path / "set")
    method = DiffusionDPO().build(256)
    plan = make_plan(GroupStore(tmp_path / "set"), method, "drop", SkipLog())
    train, held_out = split_by_prompt(plan, 0.3)
    assert held_out is not None
    prompts = [{side[i].prompt for i in range(len(side))} for side in (train, held_out)]
    assert prompts[0] | prompts[1] == {f"prompt {i}" for i in range(20)}
    assert not prompts[0] & prompts[1]
    assert train[0].prompts[0].startswith("one ")


def test_a_set_of_ties_that_are_kept_is_told_of(tmp_path):
    picture, told = make_picture(), []
    for name, labels in (("ties", (0.5, 0.5)), ("wins", (1.0, 0.0))):
        write_groups([Group("a", "p", (picture, picture), labels)], tmp_path / name)
        data = DataConfig(path=str(tmp_path / name), cache=str(tmp_path / "cache"), ties="keep", resolution=32)
        prepare(TextToImageModel(find_checkpoint("tiny-sdxl")), data, DiffusionDPO().build(256), 0, told.append)
    assert [line for line in told if "ties" in line] == [
        "all 1 groups are ties, kept by data.ties: there is no difference to learn from"
    ]


def test_a_ranking_of_many_pairs_is_encoded_once(tmp_path, shape_groups, monkeypatch):
    """Four pictures make six pairs, each variant of each picture one encoding."""
    first, second, third = shape_groups(3)
    groups = [
        replace(first, candidates=(*first.candidates, *second.candidates), labels=(0.2, 0.9, 0.4, 0.1)),
        third,
    ]
    write_groups(groups, tmp_path / "set")
    encoded, encode = [], TextToImageModel.encode_images

    def counting(self, pixels):
        encoded.append(len(pixels))
        return encode(self, pixels)

    monkeypatch.setattr(TextToImageModel, "encode_images", counting)
    data = DataConfig(path=str(tmp_path / "set"), cache=str(tmp_path / "cache"), pairs="all", variants=2, flip=True)
    model = TextToImageModel(find_checkpoint("tiny-sdxl"))
    prepared = prepare(model, data, DiffusionDPO().build(256), 0, quiet)
    assert len(prepared.train) == 7
    views = [{prepared.views(row, variant) for variant in range(2)} for row in range(2)]
    assert sum(encoded) == 4 * len(views[0]) + 2 * len(views[1])


def test_groups_of_one_and_of_two_are_not_mixed_in_one_run(tmp_path):
    picture = make_picture()
    groups = [Group("a", "p", (picture,), (1.0,)), Group("b", "p", (picture, picture), (1.0, 0.0))]
    write_groups(groups, tmp_path / "set")
    method = DiffusionKTO().build(256)
    with pytest.raises(UserError, match="groups have 1 or 2 candidates"):
        make_plan(GroupStore(tmp_path / "set"), method, "drop", SkipLog())


def test_weights_are_known_by_every_byte(tmp_path):
    """Of a LoRA that is fused into the attention layers, the first and last megabyte know nothing."""
    shutil.copytree(find_checkpoint("tiny-sdxl").path, tmp_path / "model")
    checkpoint = find_checkpoint(str(tmp_path / "model"))
    before = fingerprint(checkpoint, ("unet",))
    shutil.copytree(tmp_path / "model", tmp_path / "moved")
    assert fingerprint(find_checkpoint(str(tmp_path / "moved")), ("unet",)) == before
    file = next((tmp_path / "model" / "unet").glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert fingerprint(checkpoint, ("unet",)) != before
    assert fingerprint(checkpoint, ("vae",)) == fingerprint(find_checkpoint(str(tmp_path / "moved")), ("vae",))


def test_a_large_file_is_hashed_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("palate.t2i.fingerprint._PIECE", 10)
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "a.safetensors").write_bytes(bytes(range(35)))
    one = lora_fingerprint(str(tmp_path / "lora"))
    for place in (0, 9, 10, 34):
        content = bytearray(range(35))
        content[place] ^= 1
        (tmp_path / "lora" / "a.safetensors").write_bytes(content)
        assert lora_fingerprint(str(tmp_path / "lora")) != one


def test_what_lies_beside_the_weights_does_not_count(tmp_path):
    """A file browser's notes, and another variant that was downloaded later."""
    shutil.copytree(find_checkpoint("tiny-sdxl").path, tmp_path / "model")
    checkpoint = find_checkpoint(str(tmp_path / "model"))
    before = training_fingerprint(checkpoint)
    (tmp_path / "model" / "unet" / ".DS_Store").write_text("x")
    (tmp_path / "model" / "unet" / "README.md").write_text("x")
    weights = next((tmp_path / "model" / "unet").glob("*.safetensors"))
    shutil.copy(weights, weights.with_name(f"{weights.stem}.fp16.safetensors"))
    assert training_fingerprint(checkpoint) == before
    variant = find_checkpoint(str(tmp_path / "model"), variant="fp16")
    assert variant.weight_files("unet") == [weights.with_name(f"{weights.stem}.fp16.safetensors")]
    scheduler = tmp_path / "model" / "scheduler" / "scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace("epsilon", "v_prediction"))
    assert training_fingerprint(checkpoint) != before  # the same weights, another target


def test_weights_of_another_variant_are_named(tmp_path):
    shutil.copytree(find_checkpoint("tiny-sdxl").path, tmp_path / "model")
    for file in (tmp_path / "model").rglob("*.safetensors"):
        file.rename(file.with_name(f"{file.stem}.fp16.safetensors"))
    find_checkpoint(str(tmp_path / "model"), variant="fp16").require_whole()
    with pytest.raises(
        UserError, match=r"variant fp16, not none: name it \(in a recipe model.variant=fp16, else --var"
    ):
        find_checkpoint(str(tmp_path / "model")).require_whole()
    with pytest.raises(UserError, match=r"variant fp16, not fp32"):
        find_checkpoint(str(tmp_path / "model"), variant="fp32").require_whole()


def test_a_variant_that_no_part_has_is_refused():
    with pytest.raises(UserError, match="has no weights of the variant fp16; leave the variant out"):
        find_checkpoint("tiny-sdxl", variant="fp16").require_whole()


def test_a_part_without_the_variant_is_taken_as_it_is(tmp_path):
    """As diffusers does it; some checkpoints have an fp16 network beside one autoencoder."""
    shutil.copytree(find_checkpoint("tiny-sdxl").path, tmp_path / "model")
    for file in (tmp_path / "model" / "unet").glob("*.safetensors"):
        file.rename(file.with_name(f"{file.stem}.fp16.safetensors"))
        shutil.copy(file.with_name(f"{file.stem}.fp16.safetensors"), file.with_name(f"{file.stem} copy.safetensors"))
    checkpoint = find_checkpoint(str(tmp_path / "model"), variant="fp16")
    checkpoint.require_whole()
    assert (checkpoint.variant_of("unet"), checkpoint.variant_of("vae")) == ("fp16", None)
    assert [file.name for file in checkpoint.weight_files("unet")] == ["diffusion_pytorch_model.fp16.safetensors"]
    assert TextToImageModel(checkpoint).vae.dtype is not None


def test_a_run_goes_on_from_the_weights_that_it_began_with(tmp_path):
    run = RunFolder(tmp_path / "run")
    assert not require_same_weights(run, "abc", "here")  # nothing is known of a run that did not begin
    keep_weights(run, "abc", "here")
    keep_weights(run, "abc", "moved/there")
    with pytest.raises(UserError, match=r"began from other weights \(here then, here now\)"):
        require_same_weights(run, "abd", "here")
