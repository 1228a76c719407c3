"""Which tables list pictures: ImageFolder's metadata, columns that come late, and tables that are no list at all."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from palate.datasets.group import Group
from palate.datasets.parquet import read_groups
from palate.errors import UserError
from palate.rewards.function import from_function
from palate.rewards.labels.label import label_images
from palate.rewards.scorer import Scorer, scorer_of
from palate.rewards.scoring.batch import score_images
from palate.rewards.scoring.rows import open_rows

METADATA = [{"file_name": "b.png", "text": "blue"}, {"file_name": "deep/a.png", "text": "red"}]


def paint(*files: Path) -> None:
    for number, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8 + number, 8)).save(file)


def write(file: Path, rows: list[dict]) -> None:
    if file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif file.suffix == ".csv":
        lines = [list(rows[0]), *(row.values() for row in rows)]
        file.write_text("\n".join(",".join(map(str, line)) for line in lines))
    elif file.suffix == ".json":
        file.write_text(json.dumps({row["file_name"]: row["text"] for row in rows}))
    else:
        file.write_text("\n".join(map(json.dumps, rows)))


def width() -> Scorer:
    return scorer_of(from_function("width", lambda prompt, image: image.width, "1", needs_prompts=False))


@pytest.fixture
def folder(tmp_path) -> Path:
    paint(tmp_path / "hf/deep/a.png", tmp_path / "hf/b.png", tmp_path / "hf/c.png")
    return tmp_path / "hf"


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "metadata.parquet"])
def test_the_metadata_of_an_image_folder_is_a_manifest(folder, tmp_path, name):
    write(folder / name, METADATA)
    found = [(row.key, row.image, row.prompt, row.data) for row in open_rows(folder).read()]
    assert found == [(row["file_name"], row["file_name"], row["text"], folder / row["file_name"]) for row in METADATA]
    needing = scorer_of(from_function("sum", lambda prompt, image: image.width + len(prompt) / 10))
    score_images(folder, [needing], tmp_path / "out")
    scores = pq.read_table(tmp_path / "out/scores.parquet").to_pylist()
    assert [row["sum"] for row in scores] == pytest.approx([9.4, 8.3])


def test_explicit_names_win(folder):
    row = {"file_name": "b.png", "image": "c.png", "text": "text", "caption": "caption", "prompt": "prompt"}
    write(folder / "list.csv", [row])
    for column, prompt in ((None, "prompt"), ("text", "text")):
        (found,) = open_rows(folder, column).read()
        assert (found.image, found.prompt) == ("c.png", prompt)


def test_file_names_beside_what_groups_need_are_groups(folder):
    write(folder / "pairs.csv", [{"file_name": "b.png", "prompt": "x", "chosen": "b.png", "rejected": "c.png"}])
    assert [row.image for row in open_rows(folder).read()] == ["pairs.csv:2#0", "pairs.csv:2#1"]


def test_metadata_is_a_table_of_prompts_too(folder):
    write(folder / "metadata.jsonl", METADATA)
    rows = open_rows(f"{folder}/**/*.png", folder / "metadata.jsonl").read()
    assert {row.image: row.prompt for row in rows} == {"b.png": "blue", "c.png": None, "deep/a.png": "red"}


def test_labels_keep_what_metadata_tells_of_its_pictures(folder, tmp_path):
    rows = [
        {"file_name": name, "text": "x", "seed": seed} for seed, name in enumerate(("b.png", "c.png", "deep/a.png"))
    ]
    write(folder / "metadata.csv", rows)
    label_images(folder, [width()], tmp_path / "groups")
    (group,) = read_groups(tmp_path / "groups")
    assert isinstance(group, Group)
    assert (group.seed, group.aspects) == ((0, 1, 2), {"width": (9, 10, 8)})


@pytest.mark.parametrize("name", ["notes.csv", "embeddings.parquet", "notes.jsonl"])
def test_a_table_that_is_no_list_does_not_stand_in_the_pictures_way(folder, tmp_path, name):
    write(folder / name, [{"who": "me", "what": "nothing"}])
    rows = open_rows(folder)
    assert [row.image for row in rows.read()] == ["b.png", "c.png", "deep/a.png"]
    assert (rows.unread, rows.has_prompts) == (folder / name, False)
    score_images(folder, [width()], tmp_path / "out")
    assert len((tmp_path / "out/scores.jsonl").read_text().splitlines()) == 3
    with pytest.raises(UserError, match="has no column 'image'"):
        open_rows(folder, "what")
    for file in folder.rglob("*.png"):
        file.unlink()
    with pytest.raises(UserError):  # without pictures it is the table that was meant
        list(open_rows(folder).read())


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["metadata.csv", "other.jsonl"], "{0}/metadata.csv, {0}/other.jsonl"),
        (["deep/metadata.csv"], "{0}/deep/metadata.csv"),
        (["captions.json"], "{0}/captions.json"),
        ([f"{number}.csv" for number in range(5)], "{0}/0.csv, {0}/1.csv, {0}/2.csv and 2 more"),
    ],
)
def test_tables_that_are_passed_over_are_named_where_prompts_are_needed(folder, tmp_path, names, told):
    for name in names:
        write(folder / name, METADATA)
    score_images(folder, [width()], tmp_path / "out")  # needs none
    ending = f"; tables there that are not read unasked: {told.format(folder)}"
    needing = scorer_of(from_function("sum", lambda prompt, image: image.width + len(prompt)))
    for ask in (
        lambda: score_images(folder, [needing], tmp_path / "two"),
        lambda: label_images(folder, [needing], tmp_path / "groups"),
        lambda: open_rows(folder, "text"),
    ):
        with pytest.raises(UserError) as error:
            ask()
        assert str(error.value).endswith(ending)
    assert open_rows(folder, folder / names[0]).has_prompts


def test_a_list_that_is_cut_off_is_not_passed_over(folder):
    (folder / "list.csv").write_text("")
    with pytest.raises(UserError, match="it has no rows"):
        open_rows(folder)
    (folder / "list.csv").unlink()
    (folder / "list.jsonl").write_text('{"image": "b.png"}\n{"image":')
    with pytest.raises(UserError, match=r"list\.jsonl, line 2: not JSON"):
        open_rows(folder)


@pytest.mark.parametrize("name", ["prompt", "wish"])
def test_a_column_may_come_late_in_a_jsonl(tmp_path, name):
    rows = [{"image": f"{number}.png"} for number in range(25)]
    rows[24][name] = "a cat"
    write(tmp_path / "list.jsonl", rows)
    found = open_rows(tmp_path / "list.jsonl", name)
    assert found.has_prompts
    assert [row.prompt for row in found.read()] == [None] * 24 + ["a cat"]
    if name == "prompt":
        assert open_rows(tmp_path / "list.jsonl").has_prompts
