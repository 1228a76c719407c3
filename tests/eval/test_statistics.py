import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from palate.eval.statistics import Interval, by_category, mean_interval, paired_gain

NAN = math.nan


def test_two_prompts_by_hand():
    # The four resamples of (0, 1) have means 0, 1/2, 1/2, 1, a quarter each: 2.5 % and 97.5 % are the extremes.
    found = mean_interval(np.array([0.0, 1.0]))
    assert found == Interval(0.5, 0.0, 1.0, prompts=2)
    assert mean_interval(np.array([0.0, 1.0]), level=0.4).low == 0.5  # between 30 % and 70 % lies only 1/2


def test_three_prompts_against_all_27_resamples():
    scores = np.array([0.1, 0.5, 0.9])
    means = [np.mean(resample) for resample in product(scores, repeat=3)]
    low, high = np.quantile(means, [0.1, 0.9], method="inverted_cdf")
    found = mean_interval(scores, level=0.8, seed=3)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)


def test_many_prompts_against_the_normal_interval():
    scores = np.random.default_rng(0).normal(0.3, 0.2, 400)
    half = 1.96 * scores.std() / 20
    found = mean_interval(scores)
    assert found.mean == scores.mean()
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half), abs=0.03 * half)


def test_images_are_averaged_within_their_prompt_first():
    # As wide as the prompts' spread alone: a hundred equal pictures a prompt add nothing.
    scores = np.repeat(np.random.default_rng(1).random((20, 1)), 100, axis=1)
    many, one = mean_interval(scores), mean_interval(scores[:, 0])
    assert (many.mean, many.low, many.high) == pytest.approx((one.mean, one.low, one.high))
    within = np.tile([0.0, 1.0], (30, 1))  # all spread is within prompts
    assert mean_interval(within) == Interval(0.5, 0.5, 0.5, prompts=30)


def test_a_prompt_drawn_again_is_the_same_prompt():
    scores = np.random.default_rng(2).random(20)
    single = mean_interval(scores)
    twice = mean_interval(np.tile(scores, 2), [*range(20), *range(20)])
    assert twice.prompts == 20
    assert (twice.mean, twice.low, twice.high) == pytest.approx((single.mean, single.low, single.high))
    apart = mean_interval(np.tile(scores, 2))
    assert (apart.high - apart.low) / (single.high - single.low) == pytest.approx(1 / math.sqrt(2), abs=0.05)


def test_the_mean_of_repeated_prompts_is_over_rows():
    found = mean_interval(np.array([1.0, 1.0, 1.0, 0.0]), ["a", "a", "a", "b"])
    assert found == Interval(0.75, 0.0, 1.0, prompts=2)


def test_repeated_prompts_against_all_27_resamples():
    # Sums and rows of the prompts a, b, c; a resample's mean is over its rows, so a weighs three times.
    prompts = [(3.0, 3), (0.0, 1), (0.5, 1)]
    means = [sum(s for s, _ in drawn) / sum(n for _, n in drawn) for drawn in product(prompts, repeat=3)]
    low, high = np.quantile(means, [0.1, 0.9], method="inverted_cdf")
    found = mean_interval(np.array([1.0, 1.0, 1.0, 0.0, 0.5]), list("aaabc"), level=0.8)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert high == pytest.approx(6.5 / 7)  # a, a, c


def test_one_prompt_has_no_interval():
    for scores in (np.array([0.7]), np.array([[0.5, 0.9]])):
        found = mean_interval(scores)
        assert found.mean == pytest.approx(0.7)
        assert math.isnan(found.low)
        assert math.isnan(found.high)
        assert found.prompts == 1
    assert math.isnan(mean_interval(np.array([0.0, 1.0]), ["a", "a"]).low)


def test_equal_scores_have_an_interval_without_width():
    third = 1 / 3  # its sums round
    assert mean_interval(np.full(7, third)) == Interval(third, third, third, prompts=7)
    weighted = mean_interval(np.full(7, 0.25), list("aaabbcd"))
    assert (weighted.low, weighted.high) == (0.25, 0.25)


def test_nan_is_left_out_and_counted():
    scores = np.array([[0.0, NAN], [1.0, 1.0], [NAN, NAN]])
    found = mean_interval(scores)
    assert (found.mean, found.prompts, found.excluded) == (0.5, 2, 3)
    nothing = mean_interval(np.full((2, 2), NAN))
    assert math.isnan(nothing.mean)
    assert (nothing.prompts, nothing.excluded) == (0, 4)
    assert mean_interval(np.empty((0, 4))).prompts == 0


def test_a_pair_with_nan_on_one_side_is_left_out_of_both():
    before = np.array([[0.0, 1.0], [0.5, NAN], [0.2, 0.4]])
    after = np.array([[NAN, 1.0], [1.0, 0.0], [0.4, 0.6]])
    found = paired_gain(before, after)
    assert found.before.mean == pytest.approx((1.0 + 0.5 + 0.3) / 3)
    assert found.after.mean == pytest.approx((1.0 + 1.0 + 0.5) / 3)
    assert found.gain.mean == pytest.approx((0 + 0.5 + 0.2) / 3)
    assert found.gain.excluded == found.before.excluded == 2


def test_pairing_takes_out_the_prompts_difficulty():
    rng = np.random.default_rng(3)
    before = rng.random((200, 1))
    after = before + 0.05 + rng.normal(0, 0.02, before.shape)
    gain = paired_gain(before, after).gain
    assert 0.04 < gain.low < 0.05 < gain.high < 0.06
    assert mean_interval(before).high - mean_interval(before).low > 0.07


scores_tables = arrays(np.float64, st.tuples(st.integers(1, 8), st.integers(1, 3)), elements=st.floats(-5, 5))


@settings(max_examples=30)
@given(scores_tables, st.integers(0, 100))
def test_bounds_enclose_the_mean_s_range_and_shift_and_flip_with_the_scores(scores, seed):
    found = mean_interval(scores, resamples=200, seed=seed)
    if len(scores) > 1:
        rows = scores.mean(axis=1)
        assert rows.min() - 1e-9 <= found.low <= found.high <= rows.max() + 1e-9
        shifted = mean_interval(scores + 2, resamples=200, seed=seed)
        assert (shifted.low, shifted.high) == pytest.approx((found.low + 2, found.high + 2))
        flipped = mean_interval(-scores, resamples=200, seed=seed)
        assert (flipped.low, flipped.high) == pytest.approx((-found.high, -found.low))


@settings(max_examples=30)
@given(scores_tables, st.integers(0, 100))
def test_the_gain_is_after_minus_before(scores, seed):
    found = paired_gain(scores, scores[::-1] * 2, resamples=50, seed=seed)
    assert found.gain.mean == pytest.approx(found.after.mean - found.before.mean, abs=1e-12)
    assert paired_gain(scores, scores, resamples=50).gain.mean == 0


@pytest.mark.parametrize(("prompts", "images", "least", "most"), [(15, 1, 0.87, 0.97), (60, 4, 0.92, 0.98)])
def test_coverage_of_the_true_gain(prompts, images, least, most):
    """400 simulated comparisons with a prompt effect; standard error of the coverage about 0.011."""
    rng, covered = np.random.default_rng(4), 0
    for trial in range(400):
        chance = rng.beta(2, 2, (prompts, 1)) * 0.8  # each prompt's own difficulty; the true gain is 0.1
        before = rng.random((prompts, images)) < chance
        after = rng.random((prompts, images)) < chance + 0.1
        gain = paired_gain(before, after, resamples=1000, seed=trial).gain
        covered += gain.low <= 0.1 <= gain.high
    assert least <= covered / 400 <= most


def test_ignoring_prompts_would_cover_too_little():
    """Why the bootstrap draws prompts: pictures of one prompt share its effect."""
    rng, by_prompt, by_picture = np.random.default_rng(5), 0, 0
    for trial in range(400):
        gains = 0.1 + rng.normal(0, 0.3, (40, 1)) + rng.normal(0, 0.1, (40, 8))
        clustered, flat = (mean_interval(g, resamples=500, seed=trial) for g in (gains, gains.ravel()))
        by_prompt += clustered.low <= 0.1 <= clustered.high
        by_picture += flat.low <= 0.1 <= flat.high
    assert by_prompt / 400 > 0.9
    assert by_picture / 400 < 0.65


def test_same_seed_same_interval_and_the_seed_matters_little():
    scores = np.random.default_rng(6).random((50, 2))
    first = mean_interval(scores, seed=0)
    assert mean_interval(scores, seed=0) == first
    other = mean_interval(scores, seed=1)
    assert other != first
    assert other.low == pytest.approx(first.low, abs=0.004)


def test_chunks_do_not_change_the_answer(monkeypatch):
    scores = np.random.default_rng(7).random(30)
    whole = mean_interval(scores)
    monkeypatch.setattr("palate.eval.statistics._CHUNK", 1000)
    assert mean_interval(scores).low == pytest.approx(whole.low, abs=0.006)


def test_categories_are_compared_apart_in_their_order():
    before = np.array([[0.0], [1.0], [0.0], [1.0]])
    after = np.array([[1.0], [1.0], [1.0], [0.0]])
    table = by_category(before, after, ["b", "a", "b", "a"])
    assert list(table) == ["b", "a"]
    assert table["b"].gain == Interval(1.0, 1.0, 1.0, prompts=2)
    assert table["a"].gain == Interval(-0.5, -1.0, 0.0, prompts=2)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"before has shape \(2, 1\), after \(3, 1\)"):
        paired_gain(np.zeros(2), np.zeros(3))
    with pytest.raises(ValueError, match=r"scores have shape \(1, 1, 1\)"):
        mean_interval(np.zeros((1, 1, 1)))
    with pytest.raises(ValueError, match="got 1 prompts for 2 rows"):
        mean_interval(np.zeros(2), ["a"])
    with pytest.raises(ValueError, match="got 1 categories for 2 rows"):
        by_category(np.zeros(2), np.zeros(2), ["a"])
    with pytest.raises(ValueError, match="level=1"):
        mean_interval(np.zeros(2), level=1)
