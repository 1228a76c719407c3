"""Checkpoints of one file and of many, of safetensors and of pickles."""

import json
import os

import pytest
import torch
from safetensors.torch import save_file

from palate.errors import UserError
from palate.rewards.checkpoint_shards import checkpoint_files, find_checkpoint, load_checkpoint

TENSORS = {"a": torch.arange(4.0), "b": torch.ones(2, 3, dtype=torch.float16), "c": torch.tensor([3, 1])}


def write_shards(folder, suffix: str) -> None:
    stem, index = ("model", "model.safetensors") if suffix == "safetensors" else ("pytorch_model", "pytorch_model.bin")
    save = save_file if suffix == "safetensors" else torch.save
    where = {}
    for n, name in enumerate(TENSORS, start=1):
        where[name] = f"{stem}-0000{n}-of-00003.{suffix}"
        save({name: TENSORS[name]}, folder / where[name])
    (folder / f"{index}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


@pytest.mark.parametrize("layout", ["model.safetensors", "pytorch_model.bin", "safetensors", "bin"])
def test_every_layout_gives_the_same_tensors(tmp_path, layout):
    if layout == "model.safetensors":
        save_file(TENSORS, tmp_path / layout)
    elif layout == "pytorch_model.bin":
        torch.save(TENSORS, tmp_path / layout)
    else:
        write_shards(tmp_path, layout)
    loaded = load_checkpoint(tmp_path, "cpu", torch.bfloat16)
    assert {name: tensor.dtype for name, tensor in loaded.items()} == {
        "a": torch.bfloat16,
        "b": torch.bfloat16,
        "c": torch.int64,
    }
    assert all((loaded[name] == TENSORS[name]).all() for name in TENSORS)


def test_safetensors_go_before_pickles(tmp_path):
    write_shards(tmp_path, "bin")
    write_shards(tmp_path, "safetensors")
    assert [file.suffix for file in checkpoint_files(tmp_path)] == [".safetensors"] * 3


def test_an_index_names_no_other_folder(tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    save_file(TENSORS, tmp_path / "secret.safetensors")
    index = {"weight_map": {"a": "../secret.safetensors"}}
    (inner / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"inner lacks secret.safetensors \(1 of 1 shards\)"):
        checkpoint_files(inner)


def test_what_is_missing_or_damaged_is_named(tmp_path):
    with pytest.raises(UserError, match=r"holds no weights; expected one of model.safetensors, pytorch_model.bin, "):
        checkpoint_files(tmp_path)
    write_shards(tmp_path, "bin")
    (tmp_path / "pytorch_model-00002-of-00003.bin").unlink()
    with pytest.raises(UserError, match=r"lacks pytorch_model-00002-of-00003.bin \(1 of 3 shards\); download it whole"):
        checkpoint_files(tmp_path)
    for text in ("[]", "{}", '{"weight_map": []}', "{"):
        (tmp_path / "pytorch_model.bin.index.json").write_text(text)
        with pytest.raises(UserError, match="is no index of shards"):
            checkpoint_files(tmp_path)


class Code:
    def __reduce__(self):
        return (os.getcwd, ())


def test_no_code_is_run_from_a_shard(tmp_path):
    torch.save({"a": Code()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="palate runs no code from a file"):
        load_checkpoint(tmp_path, "cpu", torch.float32)


def test_a_folder_is_found_and_a_path_that_is_none_refused(tmp_path):
    assert find_checkpoint(tmp_path, "owner/name") == tmp_path
    with pytest.raises(UserError, match="is no folder; give the folder of owner/name, or none to take it from the hub"):
        find_checkpoint(tmp_path / "nowhere", "owner/name")


def test_the_hub_is_asked_for_weights_alone(monkeypatch, tmp_path):
    asked = []

    def download(repository, allow_patterns):
        asked.append((repository, sorted(allow_patterns)))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert find_checkpoint(None, "owner/name") == tmp_path
    assert find_checkpoint("someone/else", "owner/name") == tmp_path
    patterns = [
        "config.json",
        "model-*.safetensors",
        "model.safetensors",
        "model.safetensors.index.json",
        "pytorch_model-*.bin",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
    ]
    assert asked == [("owner/name", patterns), ("someone/else", patterns)]
