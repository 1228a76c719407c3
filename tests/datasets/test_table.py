from __future__ import annotations

import csv
import json

import pytest

from palate.datasets.skips import SkipLog
from palate.datasets.table import read_table
from palate.errors import UserError


@pytest.fixture
def folder(tmp_path, picture):
    for number, name in enumerate(["a.png", "b b.png", "c.png", "кот № 1.png", "猫.png"]):
        (tmp_path / name).write_bytes(picture(number))
    return tmp_path


def jsonl(folder, *rows, name="groups.jsonl"):
    text = "\n".join(row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def bytes_of(folder, *names):
    return tuple((folder / name).read_bytes() for name in names)


def test_jsonl_with_lists_and_every_option(folder):
    row = {"key": "first", "prompt": "кошка", "images": ["a.png", "кот № 1.png", "猫.png"], "scores": [0.1, 3, 2]}
    row |= {"aspects": {"style": [1, 2, 3]}, "captions": ["x", "y", "z"], "model": "sdxl", "seed": [1, 2, 3]}
    jsonl(folder, row | {"rater": 12, "source": "mine"})
    (group,) = read_table(folder)
    assert (group.key, group.prompt, group.labels) == ("first", "кошка", (0.1, 3.0, 2.0))
    assert group.candidates == bytes_of(folder, "a.png", "кот № 1.png", "猫.png")
    assert group.aspects == {"style": (1.0, 2.0, 3.0)}
    assert group.captions == ("x", "y", "z")
    assert group.model == ("sdxl",) * 3
    assert group.seed == (1, 2, 3)
    assert (group.rater, group.source) == ("12", "mine")


@pytest.mark.parametrize(
    ("row", "names", "labels"),
    [
        ({"images": ["a.png", "c.png"], "labels": [0.5, 0.5]}, ("a.png", "c.png"), (0.5, 0.5)),
        ({"chosen": "c.png", "rejected": "b b.png"}, ("c.png", "b b.png"), (1, 0)),
        ({"image_0": "a.png", "image_1": "c.png", "label_0": 0, "label_1": 1}, ("a.png", "c.png"), (0, 1)),
        ({"image_1": "a.png", "image_2": "c.png", "score_1": -1, "score_2": 4}, ("a.png", "c.png"), (-1, 4)),
        ({"images": ["a.png", "c.png"], "ranks": [1, 2]}, ("a.png", "c.png"), (-1, -2)),
        ({"image": "a.png", "label": True}, ("a.png",), (1,)),
    ],
)
@pytest.mark.parametrize("form", ["jsonl", "csv", "tsv"])
def test_every_form_of_pictures_and_labels(folder, row, names, labels, form):
    row = {"prompt": "p", **row}
    if form == "jsonl":
        jsonl(folder, row)
    else:
        with open(folder / f"t.{form}", "w", newline="", encoding="utf-8-sig") as file:
            cells = {name: json.dumps(value) if isinstance(value, list) else value for name, value in row.items()}
            cells = {name: int(value) if isinstance(value, bool) else value for name, value in cells.items()}
            writer = csv.DictWriter(file, list(cells), delimiter="\t" if form == "tsv" else ",")
            writer.writeheader()
            writer.writerow(cells)
    (group,) = read_table(folder)
    assert group.candidates == bytes_of(folder, *names)
    assert group.labels == labels


def test_csv_prompts_with_commas_quotes_lines_and_brackets(folder):
    prompts = ['a "cat", sitting', "two\nlines", "[masterpiece] a dog", "x" * 200_000]
    with open(folder / "t.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "chosen", "rejected"])
        writer.writerows([prompt, "a.png", "c.png"] for prompt in prompts)
    assert [group.prompt for group in read_table(folder)] == prompts


def test_a_bad_row_is_logged_and_never_shifts_the_others(folder):
    pair = {"prompt": "p", "images": ["a.png", "c.png"], "labels": [1, 0]}
    jsonl(
        folder,
        pair | {"key": "one"},
        pair | {"key": "gone", "images": ["a.png", "gone.png"]},
        "",
        pair | {"key": "short", "labels": [1]},
        pair | {"key": "unlabelled", "labels": None},
        pair | {"key": "half", "labels": [1, None]},
        pair | {"key": "text", "labels": ["good", "bad"]},
        {"prompt": "last", "images": ["c.png", "a.png"], "labels": [0, 1]},
    )
    log = SkipLog()
    groups = list(read_table(folder, log=log))
    assert [group.key for group in groups] == ["one", "groups.jsonl:8"]
    assert groups[1].candidates == bytes_of(folder, "c.png", "a.png")
    assert {skipped.key: skipped.reason for skipped in log.examples} == {
        "gone": "missing file",
        "short": "bad row",
        "unlabelled": "no label",
        "half": "no label",
        "text": "bad row",
    }


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("promt,image_0,image_1,label_0,label_1", "no column for prompt.*'promt' may be meant as 'prompt'"),
        ("prompt,imgaes,labels", "no column for images.*'imgaes' may be meant as 'images'"),
        ("prompt,Chosen,Rejected", "no column for images and labels.*'Chosen' may be meant as 'chosen'"),
        ("a,b", "no column for prompt and images and labels: it has 'a', 'b'. Needed"),
    ],
)
def test_wrong_columns_are_named_with_the_nearest_right_one(folder, header, message):
    (folder / "t.csv").write_text(header + "\nx,y,z\n")
    with pytest.raises(UserError, match=message):
        list(read_table(folder))


def test_broken_tables_are_one_clear_error(folder):
    jsonl(folder, {"prompt": "p", "chosen": "a.png", "rejected": "c.png"}, '{"prompt": ', name="t.jsonl")
    with pytest.raises(UserError, match=r"t\.jsonl, line 2: not JSON"):
        list(read_table(folder))
    (folder / "t.jsonl").write_bytes("prompt: café".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        list(read_table(folder))
    (folder / "u.csv").write_text("prompt,chosen,rejected\n")
    with pytest.raises(UserError, match=r"found t\.jsonl, u\.csv"):
        list(read_table(folder))
    assert list(read_table(folder / "u.csv")) == []


def test_pictures_elsewhere_and_lazily(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("labels")
    pair = {"prompt": "p", "chosen": "a.png", "rejected": "c.png"}
    jsonl(elsewhere, pair, pair, "this line is never reached")
    groups = read_table(elsewhere, images=folder)
    assert next(groups).candidates == bytes_of(folder, "a.png", "c.png")


def test_a_comma_in_a_prompt_without_quotes_is_a_bad_row_and_not_a_shorter_prompt(folder):
    rows = ["chosen,rejected,prompt", "a.png,c.png,a red circle, left of a square", 'a.png,c.png,"red, left"']
    (folder / "pairs.csv").write_text("\n".join(rows))
    log = SkipLog()
    assert [group.prompt for group in read_table(folder, log=log)] == ["red, left"]
    assert log.total == 1
    assert "4 cells for 3 columns: is there a text without quotes?" in str(log.examples[0])


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_what_parts_the_cells_is_told_by_the_header(folder, mark):
    (folder / "pairs.csv").write_text(
        "\n".join(map(mark.join, [("prompt", "chosen", "rejected"), ("p", "a.png", "c.png")]))
    )
    (group,) = read_table(folder)
    assert (group.prompt, group.candidates) == ("p", bytes_of(folder, "a.png", "c.png"))


@pytest.mark.parametrize(("prompt", "told"), [(None, "no prompt"), (["x"], "the prompt is a list"), (5, "is a int")])
def test_a_prompt_that_is_none_is_a_bad_row(folder, prompt, told):
    jsonl(folder, {"prompt": prompt, "chosen": "a.png", "rejected": "c.png"})
    log = SkipLog()
    assert list(read_table(folder, log=log)) == []
    assert told in str(log.examples[0])


def test_a_missing_caption_is_a_bad_row_and_not_the_word_none(folder):
    jsonl(folder, {"prompt": "p", "chosen": "a.png", "rejected": "c.png", "captions": ["x", None]})
    log = SkipLog()
    assert list(read_table(folder, log=log)) == []
    assert "a caption is missing" in str(log.examples[0])


def test_a_number_as_source_or_rater_is_its_text(folder):
    jsonl(folder, {"prompt": "p", "chosen": "a.png", "rejected": "c.png", "source": 5, "rater": 6})
    (group,) = read_table(folder)
    assert (group.source, group.rater) == ("5", "6")


def test_blank_cells_at_the_end_of_a_row_are_nothing(folder):
    (folder / "pairs.csv").write_text("prompt,chosen,rejected\np,a.png,c.png, ,\n")
    assert [group.prompt for group in read_table(folder)] == ["p"]


def test_a_quote_that_is_never_closed_does_not_swallow_the_rest(folder):
    lines = ["chosen,rejected,prompt", "a.png,c.png,one", 'a.png,c.png,"two', "a.png,c.png,three"]
    (folder / "pairs.csv").write_text("\n".join(lines))
    with pytest.raises(UserError, match="is there a quote that is not closed"):
        list(read_table(folder))
