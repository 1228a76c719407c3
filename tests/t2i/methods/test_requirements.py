"""What a method asks of a group: captions, seeds, sizes and labels; what lacks it is left out, and named."""

from __future__ import annotations

import dataclasses
import shutil
from functools import partial

import pytest

from palate.datasets.group import Group
from palate.datasets.parquet import write_groups
from palate.datasets.skips import UNREADABLE, SkipLog
from palate.datasets.store import GroupStore
from palate.errors import UserError
from palate.t2i.build.synpic.generators import Generator
from palate.t2i.methods import DCPO, PNAPO, TPO, CaPO, DiffusionDPO, RankDPO
from palate.t2i.models.checkpoint import find_checkpoint
from palate.t2i.models.model import TextToImageModel
from palate.t2i.plan import ANOTHER_FAMILY, LACKS, TIE, Plan, make_plan
from palate.t2i.prepare import _of_another_family, prepare
from palate.t2i.recipe import DataConfig


def plan_of(groups, folder, method, resolution=32):
    write_groups(iter(groups), folder)
    log = SkipLog()
    return make_plan(GroupStore(folder), method.build(256), "drop", log, resolution=resolution), log


@pytest.fixture
def groups(shape_groups):
    """Four groups with captions and seeds."""
    extra = {"captions": ("one", "two"), "seed": (3, 4)}
    return [dataclasses.replace(group, **extra) for group in shape_groups(4)]


@pytest.mark.parametrize("method", [DCPO(), TPO()], ids=lambda method: method.name)
def test_a_set_without_captions_is_refused_with_what_writes_them(method, shape_groups, groups, tmp_path):
    with pytest.raises(UserError, match=rf"{method.name} needs a caption for each candidate; `palate data captions`"):
        plan_of(shape_groups(3), tmp_path / "none", method)
    plan, log = plan_of([*shape_groups(2), *groups[2:]], tmp_path / "some", method)
    assert len(plan) == 2
    assert log.summary() == "2 no captions of their own"
    assert plan[0].prompts == ("two", "one")


def test_the_seed_of_each_picture_goes_with_it(groups, shape_groups, tmp_path):
    plan, _ = plan_of(groups, tmp_path / "all", PNAPO())
    assert plan[0].seeds == (4, 3)  # the second picture is the better one
    with pytest.raises(UserError, match="needs the seed that each picture was generated from"):
        plan_of(shape_groups(2), tmp_path / "none", PNAPO())
    half = [dataclasses.replace(groups[0], seed=(3, None)), *groups[1:]]
    assert plan_of(half, tmp_path / "half", PNAPO())[1].summary() == "1 no generation seeds"


def test_noise_of_another_model_is_left_out_and_named(groups, tmp_path):
    """A seed says nothing of the noise in another model's latents."""
    drawn_by = [("tiny-sdxl", "tiny-sdxl"), ("tiny-sdxl", "tiny-sd3"), ("nobody/knows", None), ("tiny-sd3",) * 2]
    write_groups((dataclasses.replace(g, model=m) for g, m in zip(groups, drawn_by, strict=True)), tmp_path / "set")
    write_groups((dataclasses.replace(g, model=("tiny-sd3",) * 2) for g in groups), tmp_path / "none")
    model, told = TextToImageModel(find_checkpoint("tiny-sdxl")), []
    data = DataConfig(path=str(tmp_path / "set"), cache=str(tmp_path / "cache"))
    prepared = prepare(model, data, PNAPO().build(256), 0, told.append)
    assert [prepared.train[i].row for i in range(len(prepared.train))] == [0, 2]
    assert "2 drawn by a model of another family" in told[0]
    assert "pictures by tiny-sd3 are left out: the noise is of another family's latents" in told
    with pytest.raises(UserError, match="tiny-sd3, which drew them, is of another family"):
        prepare(model, data.model_copy(update={"path": str(tmp_path / "none")}), PNAPO().build(256), 0, told.append)
    plain = prepare(model, data, DiffusionDPO().build(256), 0, told.append)
    assert len(plain.train) == 4
    assert told[-1] == "4 groups have a caption for each candidate, and diffusion_dpo trains on these"


@pytest.mark.parametrize("told", ["tiny-sdxl + loras/one", "tiny-sdxl@main", "{folder}", "{folder}@main + loras/one"])
def test_a_lora_or_a_revision_does_not_hide_the_family(told, groups, tmp_path, monkeypatch):
    """Other latents have another noise, whatever was laid over the network."""
    folder = shutil.copytree(find_checkpoint("tiny-sdxl").path, tmp_path / "me@home" / "model")
    monkeypatch.setenv("HOME", str(tmp_path))
    for place in (folder, "~/me@home/model"):
        name = told.format(folder=place)
        assert _of_another_family("sd3", name)
        assert not _of_another_family("sdxl", name)
    assert _of_another_family("sd3", Generator("sdxl", revision="main", lora="loras/one").origin)
    assert not _of_another_family("sd3", "nobody/knows@main + loras/one")


def test_of_a_ranking_only_the_pictures_of_another_family_are_left_out(groups, tmp_path):
    own, other, unknown = "tiny-sd3", "tiny-sdxl + loras/one", None
    pictures = [*groups[0].candidates, *groups[1].candidates]
    rankings = [
        Group("a", "p", pictures, (0.5, 0.9, 0.7, 0.2), seed=(5, None, 6, 7), model=(own, other, unknown, own)),
        Group("b", "p", pictures, (0.5, 0.9, 0.5, 0.2), seed=(5, 8, 6, 7), model=(own, other, own, other)),  # a tie
        Group("c", "p", pictures, (0.5, 0.9, 0.7, 0.2), seed=(5, 8, 6, 7), model=(other, other, other, own)),
    ]
    write_groups(rankings, tmp_path / "set")

    def look(pairs: str) -> tuple[Plan, SkipLog]:
        log, foreign = SkipLog(), partial(_of_another_family, "sd3")
        return make_plan(GroupStore(tmp_path / "set"), PNAPO().build(1), "drop", log, None, 32, pairs, foreign), log

    plan, log = look("extremes")
    assert [(plan[i].row, plan[i].seeds, plan[i].labels) for i in range(len(plan))] == [(0, (6, 7), (0.7, 0.2))]
    assert dict(log.counts) == {"drawn by a model of another family": 2}
    assert plan.foreign == (other,)
    every, _ = look("all")
    assert [every[i].seeds for i in range(len(every))] == [(6, 5), (6, 7), (5, 7)]


def test_a_foreign_picture_takes_nothing_from_the_pictures_of_the_runs_own_model(groups, tmp_path):
    """Neither one that cannot be read, nor one beside a tie that is to be kept."""
    own, other, third = "tiny-sd3", "tiny-sdxl", "tiny-sdxl + loras/one"
    pair, cut = groups[0].candidates, groups[1].candidates[0][:60]
    models, seeds = (own, other, own), (5, None, 6)
    mixed = [
        Group("cut", "p", (pair[0], cut, pair[1]), (0.2, 0.9, 0.7), seed=seeds, model=models),
        Group("tie", "p", (pair[0], pair[1], pair[1]), (0.5, 0.9, 0.5), seed=seeds, model=models),
        Group("own", "p", (*pair, cut), (0.2, 0.9, 0.7), seed=(5, 7, 6), model=(own, third, own)),
        Group("told", "p", (pair[0], cut, pair[1]), (0.5, 0.9, 0.7), seed=(5, 6, None), model=(own, third, own)),
        Group("all", "p", pair, (0.5, 0.5), seed=(5, 6), model=(other, other)),
    ]
    write_groups(iter(mixed), tmp_path / "set")

    def look(ties: str) -> tuple[Plan, SkipLog]:
        log, foreign = SkipLog(), partial(_of_another_family, "sd3")
        return make_plan(GroupStore(tmp_path / "set"), PNAPO().build(1), ties, log, None, 32, foreign=foreign), log

    kept, log = look("keep")
    assert [(kept[i].row, kept[i].seeds) for i in range(len(kept))] == [(0, (6, 5)), (1, (5, 6))]
    reasons = {"own": UNREADABLE, "told": LACKS["seeds"], "all": ANOTHER_FAMILY}
    assert {skipped.key: skipped.reason for skipped in log.examples} == reasons
    assert log.examples[0].detail.startswith("candidate 2: ")  # as it stands in the data
    assert kept.foreign == (other,)
    dropped, log = look("drop")
    assert [dropped[i].row for i in range(len(dropped))] == [0]
    reasons |= {"tie": ANOTHER_FAMILY, "all": TIE}
    assert {skipped.key: skipped.reason for skipped in log.examples} == reasons
    assert dropped.foreign == (other,)


def test_a_set_that_lacks_this_and_that_is_told_of_by_what_is_true(groups, tmp_path):
    """What a method asks for is nothing that a look at the data alone could tell."""
    by_other = dataclasses.replace(groups[0], model=("tiny-sdxl + loras/one",) * 2)
    without = dataclasses.replace(groups[1], seed=None)
    cut = dataclasses.replace(groups[2], candidates=tuple(data[:60] for data in groups[2].candidates))

    def told(name: str, *chosen: Group) -> str:
        write_groups(iter(chosen), tmp_path / name)
        store, foreign = GroupStore(tmp_path / name), partial(_of_another_family, "sd3")
        with pytest.raises(UserError) as error:
            make_plan(store, PNAPO().build(256), "drop", SkipLog(), resolution=32, foreign=foreign)
        return str(error.value)

    two = told("two", by_other, without)
    assert two.startswith("2 groups were read and none can be trained on by pnapo: ")
    assert "1 drawn by a model of another family (tiny-sdxl + loras/one)" in two
    assert "1 no generation seeds" in two
    assert "palate data check" not in two
    assert told("three", without, cut).endswith("; `palate data check` names those that cannot be read")


def test_noise_belongs_to_whole_pictures_of_one_size(groups, tmp_path):
    with pytest.raises(UserError, match=r"these are 32 x 32; set data.resolution to their size"):
        plan_of(groups, tmp_path / "other", PNAPO(), resolution=64)
    write_groups(iter(groups), tmp_path / "set")
    model = TextToImageModel(find_checkpoint("tiny-sdxl"))
    data = DataConfig(path=str(tmp_path / "set"), cache=str(tmp_path / "cache"), flip=True)
    with pytest.raises(UserError, match=r"data.flip mirrors pictures and not the noise"):
        prepare(model, data, PNAPO().build(256), 0, lambda line: None)


@pytest.mark.parametrize("method", [RankDPO(gains="label"), CaPO()], ids=lambda method: method.name)
def test_labels_that_are_no_win_rates_are_left_out(method, groups, tmp_path):
    votes = [dataclasses.replace(groups[0], labels=(19.5, 21.0)), *groups[1:]]
    plan, log = plan_of(votes, tmp_path / "votes", method)
    assert (len(plan), log.summary()) == (3, "1 labels outside 0 to 1")
    assert log.examples[0].detail == "19.5, 21"


def test_win_rates_are_made_of_any_labels(groups, tmp_path):
    votes = [dataclasses.replace(group, labels=(19.5, 21.0)) for group in groups]
    for method in (RankDPO(), DiffusionDPO()):
        assert len(plan_of(votes, tmp_path / method.name, method)[0]) == 4
