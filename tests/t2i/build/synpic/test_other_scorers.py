"""A scorer keeps its name when its weights change: groups that are written are never taken for the new one's."""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import AbstractContextManager
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch

from palate.datasets.parquet import read_groups
from palate.errors import UserError
from palate.rewards import registry
from palate.rewards.function import FunctionReward, from_function
from palate.rewards.scorer import scorer_of
from palate.t2i.build.synpic.build import SynPic, build_synpic
from palate.t2i.build.synpic.folder import alone
from palate.t2i.build.synpic.generators import Generator

SIGNED = EntryPoint("signed", f"{__name__}:open_signed", registry.GROUP)


def open_signed(weights: str, **_: object) -> FunctionReward:
    """Likes bright pictures, or dark ones: its weights say `1` or `-1`."""
    sign = float(Path(weights).read_text())
    return from_function("signed", lambda prompt, picture: sign * float(np.asarray(picture).mean()))


@pytest.fixture(autouse=True)
def _plugin(monkeypatch, tmp_path):
    torch.set_num_threads(1)
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or __import__(__name__))
    monkeypatch.setattr(registry, "entry_points", lambda group: [SIGNED])
    monkeypatch.chdir(tmp_path)
    Path("a").write_text("1")
    Path("b").write_text("-1")


def build(weights: str, shard: tuple[int, int] = (0, 1)) -> SynPic:
    models = [Generator("tiny-sdxl", steps=1), Generator("tiny-sd3", steps=1)]
    assets = {"signed": {"weights": weights}}
    return build_synpic(["a", "b"], models, ["signed"], "st", assets=assets, batch_size=1, device="cpu", shard=shard)


def labels() -> list[tuple[float, ...]]:
    return [group.labels for group in read_groups("st")]


def test_other_weights_of_a_scorer_are_refused_and_nothing_is_lost():
    assert build("a").groups == 2
    before = labels()
    with pytest.raises(UserError) as error:
        build("b")
    assert str(error.value).startswith("st is labelled by another signed: signed weights was sha256 ")
    assert "others can label the same pictures: palate data label st.pictures --with signed --out" in str(error.value)
    assert labels() == before
    assert build("a").groups == 2
    shutil.move("a", "c")  # the same weights under another name are the same scorer
    assert build("c").groups == 2


def test_until_the_groups_are_written_other_weights_are_taken():
    assert build("a", shard=(0, 2)).groups is None
    assert build("b", shard=(0, 2)).groups is None
    assert build("b", shard=(1, 2)).groups == 2
    dark = labels()
    shutil.rmtree("st")
    assert build("a").groups == 2
    assert labels() == [tuple(reversed(pair)) for pair in dark]


def test_other_weights_whose_groups_are_written_meanwhile_are_told_apart_too(monkeypatch):
    """Two processes without shards: the one that comes second to the lock has labelled by others."""
    others = iter(["a"])

    def second(folder: Path) -> AbstractContextManager[None]:
        for weights in others:  # once: the other process takes the lock by this way too
            assert build(weights).groups == 2
        return alone(folder)

    monkeypatch.setattr("palate.t2i.build.synpic.build.alone", second)
    with pytest.raises(UserError, match="st is labelled by another signed: signed weights was sha256 "):
        build("b")
    assert build("a").groups == 2


def test_another_version_of_palate_is_another_scorer(monkeypatch):
    build("a")
    monkeypatch.setattr("palate.rewards.scorer.__version__", "99")
    with pytest.raises(UserError, match=r"labelled by another signed: signed palate was .* and is 99"):
        build("a")


def test_a_report_of_before_tells_names_alone():
    build("a")
    report = Path("st.pictures/report.json")
    told = json.loads(report.read_text())
    assert list(told.pop("scorers")) == ["signed"]
    report.write_text(json.dumps(told))
    assert build("b").groups == 2


def test_a_scorer_that_is_open_is_told_by_its_version():
    models = [Generator("tiny-sdxl", steps=1), Generator("tiny-sd3", steps=1)]
    for version in ("1", "1", "2"):
        scorer = scorer_of(from_function("mean", lambda _, picture: float(np.asarray(picture).mean()), version=version))
        if version == "1":
            assert build_synpic(["a"], models, [scorer], "st", device="cpu").groups == 1
        else:
            with pytest.raises(UserError, match="labelled by another mean: mean version was 1 and is 2; others can"):
                build_synpic(["a"], models, [scorer], "st", device="cpu")
