"""The held-out report: accuracies counted by hand, calibration and temperature against their definitions."""

import math

import numpy as np
import pytest

from palate.rewards.learn.held_out import (
    THRESHOLDS,
    agreement,
    calibration_error,
    fit_temperature,
    report,
    table,
    tie_threshold,
)


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_accuracies_by_hand():
    # Decided: right, right, wrong, equal scores; ties: one scored equal, one far apart.
    difference = np.array([2.0, -1.0, 3.0, 0.0, 0.0, 4.0])
    outcome = np.array([1, -1, -1, 1, 0, 0])
    found = agreement(difference, outcome, threshold=0.0)
    assert (found.comparisons, found.ties) == (6, 2)
    assert found.accuracy == 2.5 / 4
    assert found.accuracy_half == (2.5 + 2 * 0.5) / 6
    # Threshold 0: equal scores predict a tie, so ½ for the decided one and 1 for the tie; the far tie gets ½.
    assert found.accuracy_threshold == (2 + 0.5 + 1 + 0.5) / 6
    softplus = [math.log1p(math.exp(-x)) for x in (2.0, 1.0, -3.0, 0.0)]
    assert found.nll == pytest.approx(sum(softplus) / 4)


def test_a_tie_is_predicted_up_to_the_threshold():
    # Probabilities 0.65 and 0.35 differ by 0.3.
    difference, outcome = np.array([logit(0.65), logit(0.649)]), np.array([0, 0])
    assert agreement(difference, outcome, threshold=0.3).accuracy_threshold == pytest.approx(0.75)
    assert agreement(difference, outcome, threshold=0.31).accuracy_threshold == 1
    far = np.array([1000.0, -1000.0])  # probabilities 1 and 0 in floats: they differ by 1
    assert agreement(far, outcome, threshold=1.0).accuracy_threshold == 1


def test_the_threshold_is_the_best_of_eleven():
    # Two ties that differ by 0.3, and three right decisions that differ by 0.5.
    difference = np.array([logit(0.64), -logit(0.64), logit(0.75), logit(0.75), -logit(0.75)])
    outcome = np.array([0, 0, 1, 1, -1])
    assert tie_threshold(difference, outcome) == 0.3
    assert agreement(difference, outcome).accuracy_threshold == 1
    scores = [agreement(difference, outcome, t).accuracy_threshold for t in THRESHOLDS]
    assert scores[0] == (3 + 1) / 5
    assert scores[10] == (2 + 1.5) / 5


def test_without_ties_the_threshold_is_none():
    generator = np.random.default_rng(0)
    outcome = generator.choice([-1, 1], 400)
    assert tie_threshold(outcome * generator.normal(1, 1, 400), outcome) == 0


def test_calibration_by_hand():
    # Confidence 0.75, half of four right: a gap of 0.25. Confidence 0.95, all of two right: 0.05.
    three, nineteen = logit(0.75), logit(0.95)
    advantage = np.array([three, three, -three, -three, nineteen, nineteen])
    assert calibration_error(advantage) == pytest.approx((4 * 0.25 + 2 * 0.05) / 6)


def test_scores_that_are_true_log_odds_are_calibrated_and_need_no_temperature():
    generator = np.random.default_rng(0)
    difference = generator.normal(0, 1.5, 40_000)
    outcome = np.where(generator.random(40_000) < 1 / (1 + np.exp(-difference)), 1, -1)
    assert calibration_error(difference * outcome) < 0.01
    assert fit_temperature(difference * outcome) == pytest.approx(1, abs=0.03)
    assert fit_temperature(4 * difference * outcome) == pytest.approx(4, abs=0.12)
    found = agreement(4 * difference, outcome)
    assert found.calibration_error > 0.1
    assert found.calibrated_error < 0.01


def test_the_temperature_has_the_least_nll():
    advantage = np.random.default_rng(1).normal(0.4, 2, 300)
    best = fit_temperature(advantage)

    def nll(temperature: float) -> float:
        return float(np.logaddexp(0, -advantage / temperature).mean())

    assert nll(best) < min(nll(best * 1.05), nll(best / 1.05))


def test_what_nothing_defines_is_none_and_not_zero():
    numbers = report(np.array([1.0, 0.2]), np.array([0, 0]), ["web", "web"])
    assert numbers["accuracy"] is None
    assert numbers["nll"] is None
    assert numbers["temperature"] is None
    assert numbers["accuracy_half"] == 0.5


def test_each_source_has_its_row():
    difference = np.array([1.0, -2.0, 3.0, 1.0])
    numbers = report(difference, np.array([1, 1, -1, 1]), ["web", "app", "web", "app"])
    assert {name: part["accuracy"] for name, part in numbers["by_source"].items()} == {"app": 0.5, "web": 0.5}
    assert numbers["by_source"]["app"]["nll"] == pytest.approx((math.log1p(math.exp(2)) + math.log1p(math.exp(-1))) / 2)
    lines = table(numbers)
    assert [line.split()[0] for line in lines[:4]] == ["source", "app", "web", "all"]
    assert len({len(line) for line in lines[:4]}) == 1
    assert lines[3].split()[1:4] == ["4", "0", "0.500"]


def test_a_temperature_is_said_to_help_calibration_only_where_it_does():
    # Nine of ten right and each sure by 3: better said with less confidence, sigma(log 9) = 0.9.
    helped = report(np.full(10, 3.0), np.array([1] * 9 + [-1]), ["web"] * 10)
    gap = 1 / (1 + math.exp(-3)) - 0.9
    assert helped["calibration_error"] == pytest.approx(gap)
    assert (
        table(helped)[-1] == "temperature fitted to the likelihood: 1.365, which would make the calibration error 0.000"
    )
    # One wrong by 30 weighs more to the likelihood than all others, which were calibrated.
    advantage = np.array([2.2] * 90 + [-2.2] * 10 + [-30.0])
    harmed = report(advantage, np.ones(101), ["web"] * 101)
    assert harmed["calibrated_error"] > harmed["calibration_error"]
    assert table(harmed)[-1] == f"temperature fitted to the likelihood: {harmed['temperature']:.3f}"
    nothing = report(np.array([1.0]), np.array([0]), ["web"])
    assert table(nothing)[-1] == "temperature fitted to the likelihood: -"
