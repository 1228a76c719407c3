import math

import pytest
import torch

from palate.objectives import dpo, seppo

# Gains of the liked picture 0.1 and -0.03, of the rival -0.05 and 0.04; beta = 20, so kappa = 10.
POLICY = torch.tensor([[0.30, 0.50], [0.45, 0.40]], dtype=torch.float64)
REFERENCE = torch.tensor([[0.40, 0.45], [0.42, 0.44]], dtype=torch.float64)
LABELS = torch.tensor([[1.0, 0.0], [1.0, 0.0]])


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_loss_by_hand():
    # First row: the policy explains the liked picture better, z = 10 (0.1 + 0.05). Second row: the reference does, so
    # the rival counts as good, z = 10 (-0.03 + 0.04).
    loss, metrics = seppo(POLICY, REFERENCE, LABELS, beta=20)
    assert loss.item() == pytest.approx((softplus(-1.5) + softplus(-0.1)) / 2, abs=1e-12)
    assert metrics["flipped"].item() == 0.5


def test_gradient_by_hand():
    policy = POLICY.clone().requires_grad_()
    loss, metrics = seppo(policy, REFERENCE, LABELS, beta=20)
    (gradient,) = torch.autograd.grad(loss, policy)
    pulls = [1 / (1 + math.exp(z)) for z in (1.5, 0.1)]  # sigmoid(-z), by kappa / B = 5
    assert gradient.flatten().tolist() == pytest.approx(
        [5 * pulls[0], -5 * pulls[0], 5 * pulls[1], 5 * pulls[1]], abs=1e-12
    )
    assert metrics["gradient_factor"].item() == pytest.approx(sum(pulls) / 2)


def test_without_a_flip_it_is_dpo():
    assert seppo(POLICY[:1], REFERENCE[:1], LABELS[:1], beta=20)[0].item() == pytest.approx(
        dpo(POLICY[:1], REFERENCE[:1], LABELS[:1], beta=20)[0].item(), abs=1e-12
    )
    loss, metrics = seppo(POLICY, POLICY, LABELS, beta=20)  # equal is no flip
    assert loss.item() == pytest.approx(math.log(2))
    assert metrics["flipped"].item() == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [({"reference_errors": None}, "reference_errors is None"), ({"beta": 0.0}, "beta is 0.0")],
)
def test_bad_arguments(change, message):
    given = {"policy_errors": POLICY, "reference_errors": REFERENCE, "labels": LABELS, "beta": 20.0} | change
    with pytest.raises(ValueError, match=message):
        seppo(**given)
