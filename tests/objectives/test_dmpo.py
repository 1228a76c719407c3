import math

import pytest
import torch

from palate.objectives import dmpo

# Margins 0.15 and -0.07; beta = 20, so kappa = 10 and z = 1.5, -0.7.
POLICY = torch.tensor([[0.30, 0.50], [0.45, 0.40]], dtype=torch.float64)
REFERENCE = torch.tensor([[0.40, 0.45], [0.42, 0.44]], dtype=torch.float64)
WINS = torch.tensor([[1.0, 0.0], [1.0, 0.0]])


def divergence(z: float, q: float) -> float:
    p = 1 / (1 + math.exp(-z))
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


def test_the_golden_value_at_policy_equals_reference():
    loss, metrics = dmpo(POLICY, POLICY, WINS, beta=2000)
    assert loss.item() == pytest.approx(1.6145, abs=5e-5)
    assert metrics["gradient_factor"].item() == pytest.approx(math.log(99) / 4)


def test_loss_by_hand():
    loss, _ = dmpo(POLICY, REFERENCE, WINS, beta=20, alpha=0.05)
    assert loss.item() == pytest.approx((divergence(1.5, 0.95) + divergence(-0.7, 0.95)) / 2, abs=1e-12)


def test_gradient_by_hand():
    policy = POLICY.clone().requires_grad_()
    loss, metrics = dmpo(policy, REFERENCE, WINS, beta=20)
    slopes = [p * (1 - p) * (z - math.log(99)) for z in (1.5, -0.7) for p in [1 / (1 + math.exp(-z))]]
    (gradient,) = torch.autograd.grad(loss, policy)
    # z falls by kappa with the winner's error: d loss / d pol_w = -kappa slope / B
    by_hand = [-5 * slopes[0], 5 * slopes[0], -5 * slopes[1], 5 * slopes[1]]
    assert gradient.flatten().tolist() == pytest.approx(by_hand, abs=1e-12)
    assert metrics["gradient_factor"].item() == pytest.approx(-sum(slopes) / 2, abs=1e-6)


def test_it_pushes_back_beyond_its_target():
    # z = 6 is past ln 99 = 4.595: the winner's error is to rise again.
    policy = torch.tensor([[0.0, 0.6]], requires_grad=True)
    dmpo(policy, torch.zeros(1, 2), WINS[:1], beta=20)[0].backward()
    assert policy.grad is not None
    assert policy.grad[0, 0].item() < 0 < policy.grad[0, 1].item()


def test_large_arguments_keep_their_digits_in_float32():
    # z = 30: the KL is z-free, -ln 0.99, to float32; z = -30: -ln 0.01.
    for z, expected in ((30.0, -math.log(0.99)), (-30.0, -math.log(0.01))):
        loss, _ = dmpo(torch.tensor([[0.0, z]]), torch.zeros(1, 2), WINS[:1], beta=2.0)
        assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_a_tie_is_least_at_the_references_margin():
    tie = torch.full((1, 2), 0.5)
    loss, metrics = dmpo(POLICY[:1], REFERENCE[:1], tie, beta=20)
    assert loss.item() == pytest.approx(divergence(1.5, 0.5), abs=1e-12)
    assert metrics["gradient_factor"].item() == pytest.approx(1.5 * 0.1824255 * 0.8175745, abs=1e-6)
    assert dmpo(REFERENCE[:1], REFERENCE[:1], tie, beta=20)[0].item() == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize("alpha", [0.0, 0.5, math.nan])
def test_alpha_out_of_range(alpha):
    with pytest.raises(ValueError, match=f"alpha is {alpha}"):
        dmpo(POLICY, REFERENCE, WINS, beta=1, alpha=alpha)
