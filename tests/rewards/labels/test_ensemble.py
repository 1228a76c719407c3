from __future__ import annotations

import math

import numpy as np
import pytest

from palate.errors import UserError
from palate.rewards.labels.ensemble import (
    COMBINATIONS,
    calibrated_win_rate,
    combine,
    front_label,
    frontier_label,
    mean_rank,
    pareto_fronts,
    ranks,
    weighted_sum,
    win_rate,
    z_scores,
)

NAN = math.nan
ONE = np.ones(1)
TWO = np.ones(2)
# Four candidates, two scorers of different scales. In turn: good and plain, fair, poor and fair, as fair as the second.
TABLE = np.array([[22.0, 0.1], [20.0, 0.3], [18.0, 0.2], [20.0, 0.2]])


def test_z_scores_of_a_scorer_and_of_one_without_an_opinion():
    scores = z_scores(np.array([[1.0, 5.0], [3.0, 5.0], [5.0, 5.0]]))
    third = math.sqrt(3 / 2)  # the mean is 3, the population's standard deviation sqrt(8 / 3)
    np.testing.assert_allclose(scores, [[-third, 0], [0, 0], [third, 0]])
    assert not z_scores(np.full((3, 1), 0.1)).any()  # its mean is not quite 0.1


def test_raw_sums_with_weights():
    np.testing.assert_allclose(weighted_sum(TABLE, np.array([0.5, 10.0])), [12, 13, 11, 12], rtol=1e-8)


def test_opposite_judges_tie_to_the_last_bit():
    """In plain floats the sums of z-scores are 0 and -2.2e-16, and the first would win."""
    scores = np.array([[0.1, 0.7], [0.5, 0.3]])
    plain = z_scores(scores).sum(axis=1)
    assert plain[0] != plain[1]
    assert combine(scores, "sum").tolist() == [0, 0]
    permuted = np.array([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]])
    assert sum(permuted[0]) != sum(permuted[1])
    assert len(set(combine(permuted, "raw_sum"))) == 1
    assert len(set(combine(-1e12 * permuted, "raw_sum"))) == 1


def test_ranks_share_ties_and_their_mean_takes_weights():
    assert ranks(TABLE).tolist() == [[4, 1], [2.5, 4], [1, 2.5], [2.5, 2.5]]
    np.testing.assert_allclose(mean_rank(TABLE, TWO), [2.5, 3.25, 1.75, 2.5])
    np.testing.assert_allclose(mean_rank(TABLE, np.array([3.0, 1.0])), [3.25, 2.875, 1.375, 2.5])


def test_syn_pics_win_rate():
    """By hand: the first scorer's wins are 3, 1, 0, 1 and the second's 0, 3, 1, 1, of 2 x 3 comparisons."""
    np.testing.assert_allclose(win_rate(TABLE, TWO), [3 / 6, 4 / 6, 1 / 6, 2 / 6])
    np.testing.assert_allclose(win_rate(TABLE, np.array([3.0, 1.0])), [9 / 12, 6 / 12, 1 / 12, 4 / 12])
    assert win_rate(np.array([[1.0], [1.0]]), ONE).tolist() == [0, 0]  # a tie is no win
    # Only order counts: any increasing function of a scorer's scores gives the same.
    np.testing.assert_array_equal(win_rate(np.exp(TABLE), TWO), win_rate(TABLE, TWO))


def test_capos_calibrated_win_rate():
    """sigmoid(log 3) = 3/4 and sigmoid(log 9) = 9/10."""
    one = np.array([[2 * math.log(3)], [math.log(3)], [0.0]])
    by_hand = np.array([(0.75 + 0.9) / 2, (0.25 + 0.75) / 2, (0.1 + 0.25) / 2])
    np.testing.assert_allclose(calibrated_win_rate(one, ONE), by_hand, atol=1e-9)
    both = np.hstack([one, -one / 100])  # a cosine that says the opposite
    np.testing.assert_allclose(calibrated_win_rate(both, np.array([1.0, 100.0])), 0.5)
    np.testing.assert_allclose(calibrated_win_rate(np.array([[1e6], [0.0]]), ONE), [1, 0])


def test_non_dominated_sorting():
    #                 A       B       C       D       E: A and B are incomparable, A > C > D, B > E, C = its twin F
    scores = np.array([[3, 2], [2, 3], [2, 2], [1, 1], [0, 3], [2, 2]], dtype=float)
    assert pareto_fronts(scores).tolist() == [1, 1, 2, 3, 2, 2]
    assert front_label(scores).tolist() == [3, 3, 2, 1, 2, 2]
    np.testing.assert_array_equal(pareto_fronts(1 / (1 + np.exp(-scores))), pareto_fronts(scores))


def test_sorting_agrees_with_the_definition():
    """Front f + 1 is what nothing dominates once fronts 1 to f are taken away."""
    scores = np.random.default_rng(0).integers(0, 5, (30, 3)).astype(float)
    left, expected, front = set(range(30)), np.zeros(30, dtype=int), 0
    while left:
        front += 1
        best = {
            i for i in left if not any((scores[j] >= scores[i]).all() and (scores[j] > scores[i]).any() for j in left)
        }
        expected[list(best)] = front
        left -= best
    assert front > 3
    np.testing.assert_array_equal(pareto_fronts(scores), expected)


def test_capos_frontiers():
    """A dominates C and D, C dominates D, E is comparable to none: in both frontiers, so in neither."""
    scores = np.array([[3, 2], [2, 1], [1, 0], [0, 9]], dtype=float)
    assert frontier_label(scores).tolist() == [1, 0.5, 0, 0.5]
    assert frontier_label(np.array([[0, 1], [1, 0]], dtype=float)).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("name", COMBINATIONS)
def test_a_candidate_without_a_score_is_left_out_and_changes_nothing(name):
    holes = np.insert(TABLE, [0, 2], [NAN, 99.0], axis=0)
    holes[3] = [-99.0, math.inf]
    whole = [1, 2, 4, 5]
    labels = combine(holes, name)
    assert np.isnan(labels).tolist() == [True, False, False, True, False, False]
    np.testing.assert_array_equal(labels[whole], combine(TABLE, name))
    assert np.isnan(combine(holes[:2], name)).all()  # one is left, and there is nothing to compare it with


@pytest.mark.parametrize("name", COMBINATIONS)
def test_better_for_all_is_preferred_and_the_order_of_candidates_is_none(name):
    scores = np.array([[0.1, 20.0], [0.2, 21.0], [0.4, 25.0]])
    labels = combine(scores, name)
    assert labels[0] <= labels[1] <= labels[2]
    assert labels[0] < labels[2]
    turned = [2, 0, 1]
    np.testing.assert_allclose(combine(scores[turned], name), labels[turned])
    assert len(set(combine(np.ones((3, 2)), name))) == 1


def test_weights_reach_the_sum():
    """z-scores of two candidates are 1 and -1, so the heavier judge decides by the difference."""
    np.testing.assert_allclose(combine([[2, 7], [1, 9]], "sum", np.array([3.0, 1.0])), [2, -2])


@pytest.mark.parametrize(
    ("name", "weights", "told"),
    [
        ("mean", None, "there is no combination 'mean'; known are sum, raw_sum, rank"),
        ("pareto", TWO, "pareto compares scorer by scorer and takes no weights"),
        ("win", np.array([1.0, 0.0]), "a weight must be above 0, and these are 1, 0"),
        ("win", np.array([1.0, NAN]), "a weight must be above 0"),
    ],
)
def test_mistakes(name, weights, told):
    with pytest.raises(UserError, match=told):
        combine(TABLE, name, weights)
