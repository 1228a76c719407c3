import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palate.objectives import margin, pair_metrics
from palate.objectives.margin import preferred

errors = st.floats(0, 4, allow_subnormal=False)
pair = st.tuples(errors, errors)


def rows(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_margin_by_hand():
    # (0.40 - 0.30) - (0.45 - 0.50) = 0.15 and (0.42 - 0.45) - (0.44 - 0.40) = -0.07
    m = margin(rows((0.30, 0.50), (0.45, 0.40)), rows((0.40, 0.45), (0.42, 0.44)))
    assert m.tolist() == pytest.approx([0.15, -0.07], abs=1e-12)


def test_margin_takes_the_first_against_the_last_candidate():
    # The middle candidate has no say: (5 - 1) - (7 - 4) = 1.
    assert margin(rows((1.0, 99.0, 4.0)), rows((5.0, -99.0, 7.0))).tolist() == [1.0]


@given(pair, pair)
def test_swapping_the_candidates_negates_the_margin(policy, reference):
    m = margin(rows(policy), rows(reference))
    assert margin(rows(policy[::-1]), rows(reference[::-1])).item() == -m.item()


@given(pair, pair, pair)
def test_margin_ignores_what_makes_a_candidate_hard_for_both_models(policy, reference, hardness):
    m = margin(rows(policy), rows(reference))
    harder = margin(rows(policy) + rows(hardness), rows(reference) + rows(hardness))
    torch.testing.assert_close(harder, m, rtol=0, atol=1e-12)


@given(pair, pair, errors)
def test_margin_ignores_a_shift_of_one_model(policy, reference, shift):
    m = margin(rows(policy), rows(reference))
    torch.testing.assert_close(margin(rows(policy) + shift, rows(reference)), m, rtol=0, atol=1e-12)


def test_only_a_strictly_better_first_label_is_a_preference():
    labels = rows((1.0, 0.0), (0.5, 0.5), (math.nan, 0.0), (0.0, math.nan), (math.nan, math.nan), (0.0, 1.0))
    assert preferred(labels).tolist() == [True, False, False, False, False, False]


def test_metrics_by_hand():
    # gains of winners: 0.10, -0.03, 0.2; of losers: -0.05, 0.04, 0.2; margins: 0.15, -0.07, 0
    policy = rows((0.30, 0.50), (0.45, 0.40), (0.1, 0.1)).requires_grad_()
    reference = rows((0.40, 0.45), (0.42, 0.44), (0.3, 0.3))
    labels = rows((1.0, 0.0), (1.0, 0.0), (1.0, 0.0))
    metrics = pair_metrics(policy, reference, labels, gradient_factor=torch.tensor([0.1, 0.2, 0.6]))
    expected = {
        "winner_error": 0.85 / 3,
        "loser_error": 1.00 / 3,
        "winner_gain": 0.27 / 3,
        "loser_gain": 0.19 / 3,
        "margin": 0.08 / 3,
        "accuracy": (1 + 0 + 0.5) / 3,
        "accuracy_count": 3,
        "gradient_factor": 0.3,
    }
    assert {name: value.item() for name, value in metrics.items()} == pytest.approx(expected, abs=1e-6)


def test_tied_groups_are_left_out_of_the_accuracy_and_its_count():
    # Margins 1, -1, -1, -1, the last two of ties: one of two preferences is right; with the ties it would be 1/4.
    policy = rows((0.0, 1.0), (1.0, 0.0), (1.0, 0.0), (1.0, 0.0))
    labels = rows((1.0, 0.0), (1.0, 0.0), (0.5, 0.5), (0.5, 0.5))
    metrics = pair_metrics(policy, torch.zeros_like(policy), labels, gradient_factor=torch.zeros(4))
    assert metrics["accuracy"].item() == 0.5
    assert metrics["accuracy_count"].item() == 2.0
    assert metrics["margin"].item() == -0.5


def test_accuracy_of_only_ties_is_nan_not_zero():
    metrics = pair_metrics(rows((0.0, 1.0)), rows((0.0, 0.0)), rows((1.0, 1.0)), gradient_factor=torch.zeros(1))
    assert math.isnan(metrics["accuracy"].item())
    assert metrics["accuracy_count"].item() == 0.0
    assert metrics["margin"].item() == 1.0
