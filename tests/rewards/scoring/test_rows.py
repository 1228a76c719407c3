"""What `palate score` makes of a manifest's rows."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from palate.datasets.group import Group
from palate.datasets.parquet import write_groups
from palate.errors import UserError
from palate.rewards.function import from_function
from palate.rewards.scorer import scorer_of
from palate.rewards.scoring.batch import score_images
from palate.rewards.scoring.rows import open_rows


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_a_text_without_quotes_is_a_fault_of_its_row_and_no_shorter_prompt(tmp_path, mark):
    for name in "ab":
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    lines = [["image", "prompt"], ["a.png", "red", " left"], ["b.png", f'"red{mark} left"']]
    (tmp_path / "list.csv").write_text("\n".join(map(mark.join, lines)))
    first, second = open_rows(tmp_path / "list.csv").read()
    assert (first.image, first.prompt, first.data) == ("a.png", None, None)
    assert first.fault == "list.csv, line 2: 3 cells for 2 columns: is there a text without quotes?"
    assert (second.prompt, second.fault) == (f"red{mark} left", None)


def test_prompts_of_a_text_file_go_with_the_pictures_as_a_person_counts(tmp_path):
    (tmp_path / "pictures").mkdir()
    for number in range(12):
        Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / f"{number}.png")
    (tmp_path / "prompts.txt").write_text("\n".join(f"prompt {number}" for number in range(12)))
    rows = open_rows(tmp_path / "pictures", tmp_path / "prompts.txt").read()
    assert [(row.image, row.prompt) for row in rows] == [(f"{n}.png", f"prompt {n}") for n in range(12)]


def test_a_blank_line_is_a_picture_without_a_prompt(tmp_path):
    for number in range(3):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.png")
    (tmp_path / "prompts.txt").write_text("a\n \n c \n\n")
    assert [row.prompt for row in open_rows(tmp_path, tmp_path / "prompts.txt").read()] == ["a", None, "c"]
    (tmp_path / "prompts.txt").write_text("\na\n\n")
    assert [row.prompt for row in open_rows(tmp_path, tmp_path / "prompts.txt").read()] == [None, "a", None]
    (tmp_path / "prompts.txt").write_text("a\n\nb\nc\n")
    with pytest.raises(UserError, match=r"has 4 prompts \(blank lines .* count\) and .* 3 images; give one for each"):
        open_rows(tmp_path, tmp_path / "prompts.txt")
    (tmp_path / "prompts.txt").write_text("a\nb\n")
    with pytest.raises(UserError, match=r"has 2 prompts and .* 3 images"):
        open_rows(tmp_path, tmp_path / "prompts.txt")


def test_a_blank_prompt_is_none_in_every_form(tmp_path):
    for number in range(3):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.png")
    files = {
        "p.json": '{"0.png": " ", "1.png": "a", "2.png": null}',
        "p.csv": "image,prompt\n0.png, \n1.png,a\n2.png,\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        assert [row.prompt for row in open_rows(tmp_path, tmp_path / name).read()] == [None, "a", None], name
    assert [row.prompt for row in open_rows(tmp_path / "p.csv").read()] == [None, "a", None]
    data = (tmp_path / "0.png").read_bytes()
    write_groups(iter([Group(str(n), p, (data,), (1.0,)) for n, p in enumerate((" ", "a", ""))]), tmp_path / "groups")
    assert [row.prompt for row in open_rows(tmp_path / "groups").read()] == [None, "a", None]
    (tmp_path / "p.jsonl").write_text('{"image": "0.png", "prompt": ""}\n')
    assert [row.prompt for row in open_rows(tmp_path / "p.jsonl").read()] == [None]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("p.json", '{"0.png": "a", "1.png": 5}', "the prompt of '1.png' is a int; give a text"),
        ("p.jsonl", '{"image": "0.png", "prompt": ["x"]}', "the prompt of '0.png' is a list"),
        ("p.csv", "image,prompt\n0.png,a\n0.png,b\n", "two prompts for '0.png', 'a' and 'b'; leave one"),
    ],
)
def test_prompts_that_are_no_text_or_are_two_are_refused(tmp_path, name, text, told):
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=told):
        open_rows(tmp_path, tmp_path / name)


@pytest.mark.parametrize("table", ['{"few/1.png": "a cat"}', "image,prompt\nfew/1.png,a cat\n"])
def test_prompts_of_other_pictures_are_refused(tmp_path, table):
    (tmp_path / "few").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "few/1.png")
    file = tmp_path / ("p.json" if table[0] == "{" else "p.csv")
    file.write_text(table)
    with pytest.raises(
        UserError, match=r"has a prompt for none of .*: it names 'few/1\.png', and .* called as '1\.png'"
    ):
        open_rows(tmp_path / "few", file)


@pytest.mark.parametrize("header", ["image_path,prompt", "a.png,a cat"])
def test_a_table_without_pictures_is_told_which_column_is_missing(tmp_path, header):
    (tmp_path / "t.csv").write_text(f"{header}\nb.png,a dog\n")
    with pytest.raises(UserError, match=rf"no column 'image' or 'file_name' \(it has {header.replace(',', ', ')}\)"):
        open_rows(tmp_path / "t.csv")


def test_a_name_that_two_pictures_have_stands_for_neither(tmp_path):
    for name in ("1.png", "sub/1.png", "sub/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "prompts.json").write_text('{"1.png": "a cat", "2.png": "a dog"}')
    rows = {row.image: row.prompt for row in open_rows(tmp_path, tmp_path / "prompts.json").read()}
    assert rows == {"1.png": "a cat", "sub/1.png": None, "sub/2.png": "a dog"}


@pytest.mark.parametrize("text", ["", "image,prompt\n", "image\n"])
def test_a_manifest_without_rows_has_no_images(tmp_path, text):
    (tmp_path / "e.csv").write_text(text)
    with pytest.raises(UserError, match=r"e\.csv holds no images: it has no rows$"):
        open_rows(tmp_path / "e.csv")


def test_a_table_of_prompts_without_rows_is_refused_and_columns_are_those_of_the_header(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "prompts.csv").write_text("image,prompt\n")
    with pytest.raises(UserError, match=r"prompts\.csv holds no prompts"):
        open_rows(tmp_path / "a.png", tmp_path / "prompts.csv")
    (tmp_path / "list.csv").write_text("image,wish\na.png,red, left\n")
    with pytest.raises(UserError, match=r"list\.csv, which has image, wish$"):
        open_rows(tmp_path / "list.csv", "prompt")


def test_a_parquet_manifest_holds_plain_bytes_or_what_datasets_writes(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    plain = {"image": pa.array([data, None], pa.binary()), "prompt": ["red", "blue"]}
    pq.write_table(pa.table(plain), tmp_path / "plain.parquet")
    first, second = open_rows(tmp_path / "plain.parquet").read()
    assert (first.key, first.image, first.prompt, first.data) == (*["plain.parquet, row 0"] * 2, "red", data)
    assert second.fault == "plain.parquet, row 1: no image"
    pq.write_table(pa.table({**plain, "id": ["x", "y"]}), tmp_path / "named.parquet")
    assert [row.key for row in open_rows(tmp_path / "named.parquet").read()] == ["x", "y"]
    nested = {"image": [{"bytes": data, "path": "a.png"}], "prompt": ["red"]}
    pq.write_table(pa.table(nested), tmp_path / "nested.parquet")
    (row,) = open_rows(tmp_path / "nested.parquet").read()
    assert (row.key, row.data) == ("a.png", data)


@pytest.mark.parametrize("pattern", ["", "*.png"])
def test_a_link_to_nothing_is_a_row_without_a_picture(tmp_path, pattern):
    folder = tmp_path / "pictures"
    (folder / "below.png").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    (folder / "b.png").symlink_to("nowhere.png")
    (folder / "c.png").symlink_to("below.png")
    (folder / "d.png").symlink_to("a.png")
    width = scorer_of(from_function("width", lambda prompt, image: image.width, needs_prompts=False))
    done = score_images(str(folder / pattern), [width], tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "out/scores.jsonl").read_text().splitlines()]
    assert [(row["image"], row["width"]) for row in rows] == [("a.png", 8), ("b.png", None), ("d.png", 8)]
    assert done.reasons == (("b.png", "file not found"),)


def width():
    return scorer_of(from_function("width", lambda prompt, image: image.width, "1", needs_prompts=False))


def paint(*files):
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(file)


@pytest.mark.parametrize("manifest", [None, "list.csv"])
def test_pictures_are_found_again_beside_their_own_tables_and_log(tmp_path, manifest):
    paint(tmp_path / "a.png", tmp_path / "b.png")
    if manifest is not None:
        (tmp_path / manifest).write_text("image,prompt\nb.png,blue\na.png,red\n")
    needing = scorer_of(from_function("length", lambda prompt, _: len(prompt), "1", needs_prompts=manifest is not None))
    expected = [("b.png", "blue"), ("a.png", "red")] if manifest else [("a.png", None), ("b.png", None)]
    for new in (2, 0, 0, 0):
        assert score_images(tmp_path, [needing], tmp_path).new == {"length": new}
        assert [(row.image, row.prompt) for row in open_rows(tmp_path).read()] == expected
        if new == 0:  # as after a kill: first the log alone, then a part beside it
            (tmp_path / ".scores.jsonl.log-0-of-1.part").write_bytes(b"{")
            for table in tmp_path.glob("scores.*"):
                table.unlink()
    for file in tmp_path.glob("*.png"):
        file.unlink()
    if manifest is None:
        with pytest.raises(UserError, match="holds no images"):
            open_rows(tmp_path)


def test_pictures_behind_linked_folders_are_found_and_a_way_round_ends(tmp_path):
    folder, far = tmp_path / "pictures", tmp_path / "far"
    paint(folder / "a.png", folder / "sub/b.png", far / "c.png", far / "deep/d.png", far / ".hidden/e.png")
    (folder / "z").symlink_to(far)
    (folder / "again").symlink_to("sub")  # a folder under two names has its pictures under both
    (far / "back").symlink_to(folder)
    (far / "deep" / "up").symlink_to("..")
    (folder / "gone.png").symlink_to("nowhere.png")
    done = score_images(folder, [width()], tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "out/scores.jsonl").read_text().splitlines()]
    names = ["a.png", "again/b.png", "gone.png", "sub/b.png", "z/c.png", "z/deep/d.png"]
    assert [row["image"] for row in rows] == names
    assert [row["width"] for row in rows] == [8, 8, None, 8, 8, 8]
    assert done.reasons == (("gone.png", "file not found"),)


def test_tables_are_not_written_among_groups_where_they_would_be_read_as_some(tmp_path):
    paint(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    groups = [Group(str(n), "red", (data,), (1.0,)) for n in range(2)]
    for number, group in enumerate(groups):
        write_groups([group], tmp_path / f"{number}")
        (shard,) = (tmp_path / f"{number}").glob("*.parquet")
        (tmp_path / "groups").mkdir(exist_ok=True)
        shard.rename(tmp_path / "groups" / f"part-{number}.parquet")
    for out in ("groups", "groups/scores"):
        with pytest.raises(UserError, match=r"lies in .*groups, where its tables would be read as groups; name an"):
            score_images(tmp_path / "groups", [width()], tmp_path / out)
    assert sorted(file.name for file in (tmp_path / "groups").iterdir()) == ["part-0.parquet", "part-1.parquet"]
    assert score_images(tmp_path / "groups", [width()], tmp_path / "groups.scores").images == 2
