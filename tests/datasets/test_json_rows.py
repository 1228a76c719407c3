from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import palate.datasets.json_rows as json_rows
from palate.errors import UserError

VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=8), st.lists, max_leaves=6)
ROWS = st.lists(st.dictionaries(st.text(max_size=5), VALUES, max_size=4), max_size=6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(rows=ROWS, chunk=st.integers(1, 40), indent=st.sampled_from([None, 2]), lines=st.booleans())
def test_any_objects_in_any_chunks(tmp_path, monkeypatch, rows, chunk, indent, lines):
    monkeypatch.setattr(json_rows, "_CHUNK", chunk)
    file = tmp_path / "rows.json"
    text = "\n".join(map(json.dumps, rows)) if lines else json.dumps(rows, indent=indent, ensure_ascii=False)
    file.write_text(text, encoding="utf-8")
    assert [row for _, row in json_rows.read_json_rows(file)] == rows


def test_an_item_is_yielded_before_the_file_is_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(json_rows, "_CHUNK", 16)
    (tmp_path / "a.json").write_text('\n [{"a": 1},\n {"b": "[]}"}, broken')
    rows = json_rows.read_json_rows(tmp_path / "a.json")
    assert next(rows) == (0, {"a": 1})
    assert next(rows) == (1, {"b": "[]}"})
    with pytest.raises(UserError, match=r"a\.json, item 2: not JSON or cut off"):
        next(rows)


@pytest.mark.parametrize("text", ["[1, 2]", '["prompt"]', "3\n"])
def test_other_json_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match="expected an object"):
        list(json_rows.read_json_rows(tmp_path / "a.json"))


def test_a_missing_file_is_one_clear_error(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        list(json_rows.read_json_rows(tmp_path / "a.json"))
