import math

import pytest
import torch

from palate.objectives import kto
from palate.objectives.kto import desirability

# Lone samples: gains 0.5, -0.2, 0.3; their mean 0.2 is the reference point.
POLICY = torch.tensor([[0.5], [0.7], [0.1]], dtype=torch.float64)
REFERENCE = torch.tensor([[1.0], [0.5], [0.4]], dtype=torch.float64)
LABELS = torch.tensor([[1.0], [1.0], [0.0]])


def sigmoid(u: float) -> float:
    return 1 / (1 + math.exp(-u))


def test_loss_by_hand_on_lone_samples():
    loss, metrics = kto(POLICY, REFERENCE, LABELS, beta=10)
    # y beta (g - z0) = 3, -4, -1: the beta is not halved
    regrets = [0.0474259, 0.9820138, 0.7310586]
    assert loss.item() == pytest.approx(sum(regrets) / 3, abs=1e-7)
    expected = {
        "winner_error": 0.6,
        "loser_error": 0.1,
        "winner_gain": 0.15,
        "loser_gain": 0.3,
        "margin": -0.15,
        "accuracy": 1 / 3,
        "accuracy_count": 3,
        "gradient_factor": sum(r * (1 - r) for r in regrets) / 3,
        "desirable_fraction": 2 / 3,
        "reference_point": 0.2,
    }
    assert {name: value.item() for name, value in metrics.items()} == pytest.approx(expected, abs=1e-6)


def test_weights_by_hand():
    loss, _ = kto(POLICY, REFERENCE, LABELS, beta=10, desirable_weight=1.3, undesirable_weight=0.7)
    by_hand = (1.3 * (1 - sigmoid(3)) + 1.3 * (1 - sigmoid(-4)) + 0.7 * (1 - sigmoid(-1))) / 3
    assert loss.item() == pytest.approx(by_hand, abs=1e-14)  # weights rounded to float32 would be off by 1e-8


def test_the_reference_point_is_never_negative():
    # All gains are -1: without the floor every u would be 0 and the loss 0.5.
    loss, metrics = kto(POLICY + 1, POLICY, torch.ones(3, 1), beta=2)
    assert metrics["reference_point"].item() == 0.0
    assert loss.item() == pytest.approx(1 - sigmoid(-2), abs=1e-12)


def test_no_gradient_flows_through_the_reference_point():
    policy = POLICY.clone().requires_grad_()
    kto(policy, REFERENCE, LABELS, beta=10)[0].backward()
    # d/d pol = y beta σ(u) (1 - σ(u)) / N, with z0 a constant
    by_hand = [y * 10 * sigmoid(u) * (1 - sigmoid(u)) / 3 for y, u in ((1, 3), (1, -4), (-1, -1))]
    assert policy.grad is not None
    assert policy.grad.flatten().tolist() == pytest.approx(by_hand, abs=1e-12)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([[1.0], [0.0], [0.5], [7.0]], [[1], [-1], [0], [1]]),
        ([[1.0, 0.0], [0.5, 0.5], [9.0, 8.9]], [[1, -1], [0, 0], [1, -1]]),
        ([[1.0, 0.6, 0.2], [0.1, 0.1, 0.1], [1.0, 0.0, 0.0]], [[1, 0, -1], [0, 0, 0], [1, -1, -1]]),
        ([[0.7, 0.7, 0.7, 0.1]], [[1, 1, 1, -1]]),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_desirable_is_above_the_mean_of_the_group(labels, expected, dtype):
    assert desirability(torch.tensor(labels, dtype=dtype)).tolist() == expected


def test_a_small_difference_on_a_large_label_is_an_opinion():
    assert desirability(torch.tensor([[100_000.01, 100_000.0]])).tolist() == [[1, -1]]


def test_a_candidate_a_little_above_the_mean_is_desirable():
    assert desirability(torch.tensor([[1.0, 0.50004, 0.0]])).tolist() == [[1, 1, -1]]


def test_groups_by_hand_and_neutral_candidates_have_no_weight():
    policy = torch.tensor([[0.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([[0.1, 0.5, -0.9]], dtype=torch.float64)  # mean gain -0.1: the reference point is 0
    loss, metrics = kto(policy, reference, torch.tensor([[3.0, 2.0, 1.0]]), beta=4)
    assert loss.item() == pytest.approx((1 - sigmoid(0.4) + 1 - sigmoid(3.6)) / 3, abs=1e-12)
    assert metrics["accuracy_count"].item() == 2
    (gradient,) = torch.autograd.grad(loss, policy)
    assert gradient[0, 1].item() == 0.0
    assert gradient[0, 0].item() > 0 > gradient[0, 2].item()


def test_only_ties_give_zero_with_a_gradient():
    policy = torch.ones(2, 2, requires_grad=True)
    loss, metrics = kto(policy, torch.zeros(2, 2), torch.ones(2, 2), beta=1)
    loss.backward()
    assert loss.item() == 0.0
    assert policy.grad is not None
    assert policy.grad.abs().max().item() == 0.0
    assert math.isnan(metrics["accuracy"].item())


def test_a_class_that_is_absent_is_nan_in_the_metrics_only():
    loss, metrics = kto(POLICY, REFERENCE, torch.ones(3, 1), beta=1)
    assert torch.isfinite(loss)
    assert math.isnan(metrics["loser_error"].item())
    assert metrics["winner_error"].item() == pytest.approx(1.3 / 3)


def test_accuracy_is_against_the_reference_point():
    # Gains 0.5 and 0.1, reference point 0.3: both candidates gained, but only the first more than the average.
    _, metrics = kto(torch.zeros(2, 1), torch.tensor([[0.5], [0.1]]), torch.ones(2, 1), beta=1)
    assert metrics["accuracy"].item() == 0.5


@pytest.mark.parametrize("labels", [[[math.nan], [1.0]], [[math.nan, 1.0], [1.0, 0.0]]])
def test_an_unknown_label_has_no_weight(labels):
    errors = torch.ones(2, len(labels[0]))
    loss, metrics = kto(errors, errors, torch.tensor(labels), beta=1)
    assert loss.item() == 0.25  # half of the candidates at 1/2
    assert metrics["accuracy_count"].item() == errors.numel() / 2


@pytest.mark.parametrize("sign", [1, -1])
def test_huge_gains_stay_finite(sign):
    policy = torch.tensor([[sign * 1e6], [0.0]], requires_grad=True)
    loss, _ = kto(policy, torch.zeros(2, 1), torch.tensor([[1.0], [0.0]]), beta=1000)
    (gradient,) = torch.autograd.grad(loss, policy)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize(
    "weights",
    [
        {"desirable_weight": -1.0},
        {"undesirable_weight": math.nan},
        {"desirable_weight": 0.0, "undesirable_weight": 0.0},
    ],
)
def test_bad_weights(weights):
    with pytest.raises(ValueError, match="desirable_weight"):
        kto(POLICY, REFERENCE, LABELS, beta=1, **weights)
