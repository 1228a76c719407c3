"""What `palate score` makes of a manifest's rows."""

import pytest
from PIL import Image

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


def test_a_name_that_two_pictures_have_stands_for_neither(tmp_path):
    for name in ("1.png", "sub/1.png", "sub/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "prompts.json").write_text('{"1.png": "a cat", "2.png": "a dog"}')
    rows = {row.image: row.prompt for row in open_rows(tmp_path, tmp_path / "prompts.json").read()}
    assert rows == {"1.png": "a cat", "sub/1.png": None, "sub/2.png": "a dog"}
