import pytest
import torch

from palate.objectives import capo

# Margins 0.15 and -0.07; beta = 5, so 0.75 and -0.35 of the rewards' difference.
POLICY = torch.tensor([[0.30, 0.50], [0.45, 0.40]], dtype=torch.float64)
REFERENCE = torch.tensor([[0.40, 0.45], [0.42, 0.44]], dtype=torch.float64)
REWARDS = torch.tensor([[0.9, 0.2], [0.6, 0.5]], dtype=torch.float64)


def test_loss_by_hand():
    loss, metrics = capo(POLICY, REFERENCE, REWARDS, beta=5)
    # (0.7 - 0.75)^2 and (0.1 + 0.35)^2
    assert loss.item() == pytest.approx((0.05**2 + 0.45**2) / 2, abs=1e-12)
    assert metrics["gradient_factor"].item() == pytest.approx((0.05 + 0.45) / 2, abs=1e-6)


def test_the_start_is_the_square_of_the_rewards_difference():
    loss, metrics = capo(POLICY, POLICY, REWARDS, beta=5)
    assert loss.item() == pytest.approx((0.7**2 + 0.1**2) / 2, abs=1e-12)
    assert metrics["gradient_factor"].item() == pytest.approx(0.4)


def test_gradient_by_hand():
    policy = POLICY.clone().requires_grad_()
    capo(policy, REFERENCE, REWARDS, beta=5)[0].backward()
    assert policy.grad is not None
    # d/d pol_w = 2 beta (target - beta m) / B: pushes back where the margin is past its target
    assert policy.grad.flatten().tolist() == pytest.approx([-0.25, 0.25, 2.25, -2.25], abs=1e-12)


def test_the_target_of_a_tie_is_zero():
    loss, _ = capo(POLICY, REFERENCE, torch.tensor([[0.9, 0.2], [0.5, 0.5]], dtype=torch.float64), beta=5)
    assert loss.item() == pytest.approx((0.05**2 + 0.35**2) / 2, abs=1e-12)
