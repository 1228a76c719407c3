import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.errors import UserError
from palate.training.order import STAGES, MicroBatches, Shares, epoch_order, staged_visit, visit_at
from palate.training.seeds import mix

SEEDS = st.integers(0, 2**63 - 1)


@given(seed=SEEDS, epoch=st.integers(0, 5), groups=st.integers(1, 200))
def test_each_epoch_visits_each_group_once(seed: int, epoch: int, groups: int) -> None:
    visits = [visit_at(seed, groups, position) for position in range(epoch * groups, (epoch + 1) * groups)]
    assert sorted(visit.index for visit in visits) == list(range(groups))
    assert [visit.position for visit in visits] == list(range(epoch * groups, (epoch + 1) * groups))


@given(processes=st.integers(1, 4), micro=st.integers(1, 4), accumulation=st.integers(1, 4), step=st.integers(0, 1000))
def test_ranks_share_a_step_without_gap_or_overlap(processes: int, micro: int, accumulation: int, step: int) -> None:
    size = processes * micro * accumulation
    shares = Shares(size, micro, processes)
    assert shares.accumulation == accumulation
    positions = [
        position
        for rank in range(processes)
        for part in range(accumulation)
        for position in shares.positions(step, part, rank)
    ]
    assert sorted(positions) == list(range(step * size, (step + 1) * size))


@given(seed=SEEDS, start=st.integers(0, 20), groups=st.integers(1, 30))
def test_resumed_stream_is_the_tail_of_the_whole(seed: int, start: int, groups: int) -> None:
    shares = Shares(6, 3)
    whole = list(MicroBatches(seed, groups, shares, 0, 0, 20))
    tail = MicroBatches(seed, groups, shares, 0, start, 20)
    assert list(tail) == whole[2 * start :]
    assert len(tail) == len(whole[2 * start :])


def test_order_is_fixed_for_good() -> None:
    # Committed numbers: another order would break the resume of every run that exists.
    assert epoch_order(0, 0, 8).tolist() == [3, 0, 1, 6, 5, 4, 7, 2]
    assert epoch_order(1, 0, 8).tolist() == [4, 7, 3, 1, 0, 5, 2, 6]
    assert mix(0, 1) == 4059051691542397301


def test_seeds_and_epochs_differ() -> None:
    orders = {tuple(epoch_order(seed, epoch, 50)) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16


@given(st.lists(st.integers(0, 2**64 - 1), max_size=4), st.lists(st.integers(0, 2**64 - 1), max_size=4))
def test_other_counters_mean_another_seed(first: list[int], second: list[int]) -> None:
    # numpy's SeedSequence gives [0] and [0, 0] the same state.
    assert (mix(*first) == mix(*second)) == (first == second)
    assert 0 <= mix(*first) < 2**63


def test_indivisible_batch_names_the_numbers() -> None:
    with pytest.raises(UserError, match=r"batch_size 10 is not a multiple of 8, which is .*micro_batch 4 x 2 process"):
        Shares(10, 4, 2)


def test_a_curriculum_goes_from_easy_to_hard_and_gives_each_stage_its_share() -> None:
    easiest, visits = np.random.default_rng(0).permutation(23), 100
    seen = [staged_visit(3, easiest, visits, position) for position in range(visits)]
    assert [visit.position for visit in seen] == list(range(visits))
    place = np.argsort(easiest)  # how hard a group is, 0 the easiest
    for stage, members in enumerate(np.array_split(np.arange(23), STAGES)):
        drawn = [place[visit.index] for visit in seen[20 * stage : 20 * (stage + 1)]]
        assert set(drawn) == set(members)
        assert max(np.bincount(drawn)[members]) - min(np.bincount(drawn)[members]) <= 1
    assert staged_visit(3, easiest, visits, visits + 5).index in easiest[-4:]


def test_each_stage_of_a_curriculum_begins_its_own_order() -> None:
    """Also where stages are not equally long: 98 visits are 20, 20, 19, 20 and 19."""
    easiest = np.arange(10, 60)
    for visits in (100, 98):
        seen = [staged_visit(5, easiest, visits, position).index for position in range(visits)]
        for stage, members in enumerate(np.array_split(easiest, STAGES)):
            first = next(position for position in range(visits) if position * STAGES // visits == stage)
            order = epoch_order(mix(5, stage), 0, 10)
            assert seen[first : first + 10] == members[order].tolist()


def test_a_curriculum_follows_from_seed_and_position_alone() -> None:
    easiest = np.arange(40)
    whole = list(MicroBatches(0, 40, Shares(8, 4), 0, 0, 10, easiest))
    assert list(MicroBatches(0, 40, Shares(8, 4), 0, 6, 10, easiest)) == whole[12:]
    two = [list(MicroBatches(0, 40, Shares(8, 4, 2), rank, 0, 10, easiest)) for rank in (0, 1)]
    assert [batch for pair in zip(*two, strict=True) for batch in pair] == whole
    other = list(MicroBatches(1, 40, Shares(8, 4), 0, 0, 10, easiest))
    assert other != whole
    for batches in (whole, other):
        assert {visit.index for batch in batches[:4] for visit in batch} <= set(range(8))


def test_fewer_groups_than_stages_are_stages_of_one() -> None:
    assert [staged_visit(0, np.array([2, 0, 1]), 6, position).index for position in range(6)] == [2, 2, 0, 0, 1, 1]
