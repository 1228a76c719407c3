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
