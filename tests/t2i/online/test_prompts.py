"""Prompts come from texts, columns and groups; what is wrong with them is told in a line."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from palate.errors import UserError
from palate.t2i.online.prompts import open_training_prompts
from palate.t2i.online.recipe import PromptsConfig

SAID: list[str] = []


def prompts_of(path, **settings) -> list[str]:
    SAID.clear()
    return open_training_prompts(PromptsConfig(path=str(path), **settings), SAID.append).train


def test_a_text_file(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("\ufeffa cat\n\n  a dog \na cat\na bird\n", encoding="utf-8")
    assert prompts_of(file) == ["a cat", "a dog", "a bird"]
    assert SAID == ["3 prompts are used; left out are 0 empty ones and 1 that were there before"]
    assert prompts_of(file, limit=2) == ["a cat", "a dog"]


def test_a_column(tmp_path):
    rows = [{"n": 1, "caption": "a cat", "other": "x"}, {"n": 2, "caption": None}, {"n": 3, "caption": "a dog"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "a.csv").write_text('n;caption;other\n1;"a cat";x\n2;;\n3;a dog;\n')
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for kind in ("jsonl", "json", "csv", "parquet"):
        assert prompts_of(tmp_path / f"a.{kind}") == ["a cat", "a dog"], kind
        assert SAID[0].startswith("2 prompts are used; left out are 1 empty"), kind
        assert prompts_of(tmp_path / f"a.{kind}", column="other") == ["x"], kind
        with pytest.raises(UserError, match=r"has no column text; it has .*caption.*: set data\.column"):
            prompts_of(tmp_path / f"a.{kind}", column="text")


def test_groups_lend_their_prompts(pairs):
    found = prompts_of(pairs)
    assert 12 < len(found) <= 24
    assert len(set(found)) == len(found)
    assert all(prompt.split()[0] in ("a", "an") for prompt in found)


def test_held_out_prompts_stay_out_of_training(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(f"prompt {number}" for number in range(200)))
    found = open_training_prompts(PromptsConfig(path=str(file), holdout=0.25))
    assert len(found.train) + len(found.held_out) == 200
    assert not {*found.train} & {*found.held_out}
    assert 30 < len(found.held_out) < 70
    fewer = open_training_prompts(PromptsConfig(path=str(file), holdout=0.25, limit=100))
    assert {*fewer.held_out} == {*found.held_out} & {f"prompt {number}" for number in range(100)}
    assert fewer.hash != found.hash


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.txt", b"\n \n", "holds no prompts"),
        ("a.txt", b"\xff\xfe\x00", "is not a text file in UTF-8"),
        ("a.jsonl", b'{"prompt": "a"}\n{"prompt": ', "line 2: not JSON"),
        ("a.jsonl", b"", "holds no prompts"),
        ("a.jsonl", b'{"prompt": 3}', "holds no prompts: 1 rows are empty"),
        ("a.csv", b"image,label\na.png,1\n", "none of the columns prompt, caption, text; it has image, label"),
        ("a.parquet", b"PAR1", "is not a whole Parquet file"),
    ],
)
def test_what_is_wrong_is_told(name, content, told, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        prompts_of(tmp_path / name)
    assert told in str(caught.value)
    assert name in str(caught.value)


def test_a_missing_file_and_an_empty_side(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        prompts_of(tmp_path / "none.txt")
    (tmp_path / "one.txt").write_text("a cat")
    with pytest.raises(UserError, match=r"data.holdout=0.5 would hold (every|no) prompt out of 1"):
        prompts_of(tmp_path / "one.txt", holdout=0.5)
