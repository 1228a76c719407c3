import dataclasses

import pytest

from palate.datasets.digest import digest
from palate.datasets.parquet import write_groups
from palate.datasets.skips import SkipLog
from palate.datasets.store import GroupStore
from palate.errors import UserError
from palate.t2i.method import Method
from palate.t2i.plan import make_plan, picture_bytes
from palate.t2i.prepare import split_by_prompt

PAIRS = Method("diffusion_dpo", objective=None)
SINGLES = Method("kto", objective=None, fewest=1)


def store_of(groups, folder):
    write_groups(iter(groups), folder)
    return GroupStore(folder)


def plan_of(groups, folder, method=PAIRS, ties="drop", pairs="extremes"):
    log = SkipLog()
    store = store_of(groups, folder)
    return make_plan(store, method, ties, log, pairs=pairs), log, store


def test_candidates_are_sorted_best_first_with_their_pictures(tmp_path, shape_groups):
    groups = shape_groups(3)
    plan, _, store = plan_of(groups, tmp_path / "g")
    entry = plan[1]
    assert entry.labels == (1.0, 0.0)
    assert entry.images == (digest(groups[1].candidates[1]), digest(groups[1].candidates[0]))
    assert picture_bytes(store, entry) == [groups[1].candidates[1], groups[1].candidates[0]]
    assert entry.prompts == (groups[1].prompt,) * 2


def test_ties_are_dropped_or_kept_on_purpose(tmp_path, shape_groups):
    groups = shape_groups(3)
    groups[0] = dataclasses.replace(groups[0], labels=(0.5, 0.5))
    dropped, log, _ = plan_of(groups, tmp_path / "a")
    assert (len(dropped), log.counts["tie"]) == (2, 1)
    kept, _, _ = plan_of(groups, tmp_path / "b", ties="keep")
    assert len(kept) == 3


def test_one_unreadable_picture_never_shifts_the_pairing_of_others(tmp_path, shape_groups):
    groups = shape_groups(4)
    cut = groups[1].candidates[0][: len(groups[1].candidates[0]) // 2]
    broken = dataclasses.replace(groups[1], candidates=(cut, groups[1].candidates[1]))
    plan, log, store = plan_of([groups[0], broken, *groups[2:]], tmp_path / "g")
    assert [plan[i].row for i in range(3)] == [0, 2, 3]
    assert log.examples[0].key == "g1"
    assert picture_bytes(store, plan[1])[0] == groups[2].candidates[1]


def test_a_ranking_gives_best_against_worst_and_says_so(tmp_path, shape_groups):
    a, b, *_ = shape_groups(3)
    ranking = dataclasses.replace(a, candidates=(*a.candidates, b.candidates[0]), labels=(0.2, 0.9, 0.1))
    plan, _, _ = plan_of([ranking, b], tmp_path / "g")
    assert plan[0].labels == (0.9, 0.1)
    assert plan.rankings == 1


def test_captions_take_the_place_of_the_prompt_for_each_candidate(tmp_path, shape_groups):
    group = dataclasses.replace(shape_groups(1)[0], captions=("loser's", "winner's"))
    plan, _, _ = plan_of([group], tmp_path / "g")
    assert plan[0].prompts == ("winner's", "loser's")


def test_a_set_with_only_ties_is_refused_in_one_line(tmp_path, shape_groups):
    groups = [dataclasses.replace(group, labels=(1.0, 1.0)) for group in shape_groups(2)]
    with pytest.raises(UserError, match="all are ties"):
        plan_of(groups, tmp_path / "g")


def test_single_candidates_serve_kto_but_not_dpo(tmp_path, shape_groups):
    singles = [dataclasses.replace(g, candidates=g.candidates[:1], labels=(1.0,)) for g in shape_groups(2)]
    assert len(plan_of(singles, tmp_path / "a", SINGLES)[0]) == 2
    with pytest.raises(UserError, match="at least 2 candidates"):
        plan_of(singles, tmp_path / "b")


def test_data_hash_changes_with_a_label(tmp_path, shape_groups):
    groups = shape_groups(3)
    first = plan_of(groups, tmp_path / "a")[0].data_hash
    assert plan_of(groups, tmp_path / "b")[0].data_hash == first
    groups[2] = dataclasses.replace(groups[2], labels=(0.0, 0.9))
    assert plan_of(groups, tmp_path / "c")[0].data_hash != first


def test_held_out_prompts_are_disjoint(tmp_path, shape_groups):
    plan, _, _ = plan_of(shape_groups(24), tmp_path / "g")
    train, held_out = split_by_prompt(plan, 0.3)
    assert not {*train.prompts()} & {*held_out.prompts()}
    assert len(train) + len(held_out) == 24


def test_the_easiest_groups_are_those_with_the_widest_difference(tmp_path, shape_groups):
    wide = {0: (0.0, 0.3), 1: (0.9, 0.0), 2: (0.0, 0.1), 3: (0.5, 0.0)}
    groups = [dataclasses.replace(group, labels=wide[i]) for i, group in enumerate(shape_groups(4))]
    plan, _, _ = plan_of(groups, tmp_path / "g")
    assert plan.easiest(0).tolist() == [1, 3, 0, 2]


def test_equal_differences_are_shuffled_by_the_seed_and_all_equal_ones_are_refused(tmp_path, shape_groups):
    groups = [dataclasses.replace(g, labels=(1.0 + (i < 3), 0.0)) for i, g in enumerate(shape_groups(24))]
    plan, _, _ = plan_of(groups, tmp_path / "g")
    order = plan.easiest(0).tolist()
    assert {*order[:3]} == {0, 1, 2}
    assert {*order[3:]} == {*range(3, 24)}
    assert order[3:] != sorted(order[3:])
    assert plan.easiest(0).tolist() == order != plan.easiest(1).tolist()
    equal, _, _ = plan_of(groups[3:], tmp_path / "equal")
    with pytest.raises(UserError, match="the labels of all 21 groups differ by 1"):
        equal.easiest(0)


def test_single_pictures_have_no_order_and_are_no_ties(tmp_path, shape_groups):
    """Of scored groups, too, of which a method takes the best picture alone."""
    groups = [dataclasses.replace(g, labels=(0.1 * i, 1.0)) for i, g in enumerate(shape_groups(3))]
    plan, _, _ = plan_of(groups, tmp_path / "g", Method("sft", objective=None, candidates=1, fewest=1))
    assert plan.size == 1
    assert not plan.says_nothing
    with pytest.raises(UserError, match=r"single pictures, which have none; set data\.order to random"):
        plan.easiest(0)
    tied, _, _ = plan_of([dataclasses.replace(g, labels=(1.0, 1.0)) for g in groups], tmp_path / "t", ties="keep")
    assert tied.says_nothing


def test_all_pairs_of_a_ranking(tmp_path, shape_groups):
    a, b = shape_groups(2)
    ranking = dataclasses.replace(
        a,
        candidates=(*a.candidates, b.candidates[0], b.candidates[1]),
        labels=(0.2, 0.9, 0.2, 0.1),
        seed=(5, 6, 7, 8),
    )
    plan, _, store = plan_of([b, ranking], tmp_path / "g", pairs="all")
    assert [plan[i].row for i in range(len(plan))] == [0, 1, 1, 1, 1, 1]  # of six pairs one is a tie
    assert [plan[i].seeds for i in range(1, 6)] == [(6, 5), (6, 7), (6, 8), (5, 8), (7, 8)]
    assert plan[3].labels == (0.9, 0.1)
    assert picture_bytes(store, plan[3]) == [ranking.candidates[1], ranking.candidates[3]]
    assert plan.easiest(0).tolist()[:2] == [0, 3]  # 1.0 and 0.8; the gaps of rank follow
    kept, _, _ = plan_of([b, ranking], tmp_path / "k", ties="keep", pairs="all")
    assert len(kept) == 7
    with pytest.raises(UserError, match=r"data\.pairs is all, and kto does not take pairs"):
        plan_of([b], tmp_path / "s", dataclasses.replace(SINGLES, candidates=None), pairs="all")
