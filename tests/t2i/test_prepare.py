"""Preparation never reads what is out of date: edited preferences, other data, a tokenizer without its words."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from palate.errors import UserError
from palate.t2i.converted import open_store
from palate.t2i.models.checkpoint import find_checkpoint
from palate.t2i.recipe import DataConfig
from palate.training.run_folder import RunFolder, require_same_data


def quiet(line: str) -> None:
    pass


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
    require_same_data(folder, {"hash": "a", "groups": 4})
    require_same_data(folder, {"hash": "a", "groups": 4})
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
