import math

import pytest
import torch

from palate.objectives import clipped_dpo

WIN = torch.tensor([[1.0, 0.0]])


def rows(*values):
    return torch.tensor(values, dtype=torch.float64)


def minus_log_sigmoid(z: float) -> float:
    return math.log(1 + math.exp(-z))


def loss_of(winner: float, loser: float, labels=WIN, **settings):
    """The loss at two log-ratios, and its gradient with respect to the errors."""
    errors = rows((-winner, -loser)).requires_grad_()
    loss, metrics = clipped_dpo(errors, rows((0.0, 0.0)), labels, **settings)
    return loss.item(), torch.autograd.grad(loss, errors)[0][0].tolist(), metrics


def test_ln_2_at_a_ratio_of_1():
    loss, gradient, metrics = loss_of(0.0, 0.0)
    assert loss == pytest.approx(math.log(2), abs=1e-12)
    assert gradient == pytest.approx([5.0, -5.0])  # beta / 2: there is no half in beta
    assert metrics["gradient_factor"].item() == 0.5


def test_inside_the_range_by_hand():
    loss, _, metrics = loss_of(0.05, -0.08, beta=4)
    assert loss == pytest.approx(minus_log_sigmoid(4 * 0.13), abs=1e-12)
    assert metrics["clip_fraction"].item() == 0.0


@pytest.mark.parametrize("sides", ["both", "improved"])
def test_what_has_improved_enough_is_left_alone(sides):
    loss, gradient, metrics = loss_of(0.5, -0.5, sides=sides)
    assert loss == pytest.approx(minus_log_sigmoid(10 * (math.log(1.1) - math.log(0.9))), abs=1e-12)
    assert gradient == [0.0, 0.0]
    assert metrics["gradient_factor"].item() == 0.0
    assert metrics["clip_fraction"].item() == 1.0
    assert metrics["margin"].item() == pytest.approx(1.0)


def test_the_published_clip_gives_up_what_went_wrong():
    loss, gradient, _ = loss_of(-0.5, 0.5, sides="both")
    assert loss == pytest.approx(minus_log_sigmoid(10 * (math.log(0.9) - math.log(1.1))), abs=1e-12)
    assert gradient == [0.0, 0.0]


def test_the_other_clip_lets_it_recover():
    loss, gradient, metrics = loss_of(-0.5, 0.5, sides="improved")
    assert loss == pytest.approx(minus_log_sigmoid(-10.0), abs=1e-12)
    assert gradient[0] > 9
    assert gradient[1] < -9
    assert metrics["clip_fraction"].item() == 0.0


def test_each_side_is_clipped_by_itself():
    # The winner has improved past the clip; the loser has risen a little and still moves.
    loss, gradient, metrics = loss_of(0.5, 0.05)
    z = 10 * (math.log(1.1) - 0.05)
    assert loss == pytest.approx(minus_log_sigmoid(z), abs=1e-12)
    assert gradient == pytest.approx([0.0, -10 / (1 + math.exp(z))], abs=1e-12)
    assert metrics["gradient_factor"].item() == pytest.approx(0.5 / (1 + math.exp(z)), abs=1e-6)


@pytest.mark.parametrize("sides", ["both", "improved"])
@pytest.mark.parametrize(("winner", "loser"), [(0.05, -0.02), (0.5, 0.02)])
def test_a_tie_is_no_win_for_either_side(sides, winner, loser):
    tie = torch.full((1, 2), 0.5)
    loss, gradient, _ = loss_of(winner, loser, tie, sides=sides)
    swapped, other, _ = loss_of(loser, winner, tie, sides=sides)
    assert swapped == pytest.approx(loss, abs=1e-12)
    assert other[::-1] == pytest.approx(gradient, abs=1e-12)


def test_a_tie_far_from_the_reference_is_pulled_back_unless_clipped_on_both_sides():
    tie = torch.full((1, 2), 0.5)
    assert loss_of(0.5, -0.5, tie, sides="both")[1] == [0.0, 0.0]
    gradient = loss_of(0.5, -0.5, tie, sides="improved")[1]
    assert gradient[0] < 0 < gradient[1]


def test_the_exponential_cannot_overflow():
    errors = torch.tensor([[-1e6, 1e6]], requires_grad=True)  # e^1e6
    loss, _ = clipped_dpo(errors, torch.zeros(1, 2), WIN)
    assert loss.item() == pytest.approx(minus_log_sigmoid(10 * (math.log(1.1) - math.log(0.9))), abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clip": 0.0}, "clip is 0.0"),
        ({"clip": 1.0}, "clip is 1.0"),
        ({"sides": "harmful"}, "expected 'both' or 'improved'"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        clipped_dpo(torch.ones(1, 2), torch.ones(1, 2), WIN, **settings)
