import pytest
import torch

from palate.objectives import hinge

# Margins 0.15 and -0.07; beta = 20, so kappa = 10 and z = 1.5, -0.7.
POLICY = torch.tensor([[0.30, 0.50], [0.45, 0.40]], dtype=torch.float64)
REFERENCE = torch.tensor([[0.40, 0.45], [0.42, 0.44]], dtype=torch.float64)
WINS = torch.tensor([[1.0, 0.0], [1.0, 0.0]])


def test_loss_by_hand():
    loss, metrics = hinge(POLICY, REFERENCE, WINS, beta=20)
    assert loss.item() == pytest.approx((0 + 1.7) / 2, abs=1e-12)
    assert metrics["gradient_factor"].item() == 0.5


def test_only_groups_inside_the_margin_pull():
    policy = POLICY.clone().requires_grad_()
    hinge(policy, REFERENCE, WINS, beta=20)[0].backward()
    assert policy.grad is not None
    assert policy.grad.flatten().tolist() == pytest.approx([0, 0, 5, -5], abs=1e-12)  # kappa / B


def test_a_tie_is_a_zero_in_the_mean():
    labels = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    loss, metrics = hinge(POLICY, REFERENCE, labels, beta=20)
    assert loss.item() == pytest.approx((0 + 1.7) / 2, abs=1e-12)
    assert metrics["gradient_factor"].item() == 0.5
    parts = [hinge(POLICY[i : i + 1], REFERENCE[i : i + 1], labels[i : i + 1], beta=20)[0] for i in range(2)]
    assert torch.stack(parts).mean().item() == loss.item()


def test_only_ties_give_zero_with_a_gradient():
    policy = POLICY.clone().requires_grad_()
    loss, metrics = hinge(policy, REFERENCE, torch.zeros(2, 2), beta=20)
    loss.backward()
    assert loss.item() == 0.0
    assert policy.grad is not None
    assert policy.grad.abs().max().item() == 0.0
    assert metrics["gradient_factor"].item() == 0.0
