import pytest

from palate.errors import UserError
from palate.rewards.questions import fill, read_template


def test_braces_are_left_alone():
    assert fill('{a} "{prompt}" {}, {prompt}', "x {prompt} {b}") == '{a} "x {prompt} {b}" {}, x {prompt} {b}'


def test_templates(tmp_path):
    file = tmp_path / "question.txt"
    file.write_text("Is «{prompt}» there?\n", encoding="utf-8")
    assert read_template(None, "own {prompt}") == "own {prompt}"
    assert read_template("Show {prompt}?", "own {prompt}") == "Show {prompt}?"
    assert read_template(file, "") == read_template(str(file), "") == "Is «{prompt}» there?\n"


def test_a_template_without_a_place_for_the_prompt(tmp_path):
    file = tmp_path / "question.txt"
    file.write_text("Is {caption} there?")
    with pytest.raises(UserError, match=r"question.txt has no \{prompt\}"):
        read_template(file, "")
    with pytest.raises(UserError, match=r"neither a text with .* nor a text file"):
        read_template("Is it there? " * 100, "")
