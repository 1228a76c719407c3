"""A plan is known by all that its groups say."""

import dataclasses

import pytest

from palate.datasets.group import Group
from palate.datasets.parquet import write_groups
from palate.datasets.skips import SkipLog
from palate.datasets.store import GroupStore
from palate.rewards.learn.plan import make_plan


def data_hash(groups: list[Group], folder) -> str:
    write_groups(groups, folder)
    return make_plan(GroupStore(folder), SkipLog()).data_hash


@pytest.mark.parametrize("change", ["labels", "prompt", "candidates"])
def test_a_hash_changes_with_any_part_of_any_group(change, make_groups, tmp_path):
    groups = make_groups(4)
    last = groups[-1]
    other = {
        "labels": {"labels": tuple(1 - label for label in last.labels)},
        "prompt": {"prompt": "another wall"},
        "candidates": {"candidates": last.candidates[::-1]},
    }[change]
    first = data_hash(groups, tmp_path / "first")
    assert data_hash(groups, tmp_path / "same") == first
    assert data_hash([*groups[:-1], dataclasses.replace(last, **other)], tmp_path / "other") != first
