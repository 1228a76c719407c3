import pytest
import torch

from palate.objectives import ipo

# Margins 0.15 and -0.07; beta = 5, so the target margin is 0.1.
POLICY = torch.tensor([[0.30, 0.50], [0.45, 0.40]], dtype=torch.float64)
REFERENCE = torch.tensor([[0.40, 0.45], [0.42, 0.44]], dtype=torch.float64)
WINS = torch.tensor([[1.0, 0.0], [1.0, 0.0]])


def test_loss_by_hand():
    loss, metrics = ipo(POLICY, REFERENCE, WINS, beta=5)
    assert loss.item() == pytest.approx((0.05**2 + 0.17**2) / 2, abs=1e-12)
    # |1 - 10 * 0.15| and |1 + 10 * 0.07|
    assert metrics["gradient_factor"].item() == pytest.approx((0.5 + 1.7) / 2, abs=1e-6)


def test_the_start_is_the_square_of_the_target_in_full_precision():
    # 1 / (2 * 0.3) = 5/3 has no short binary form: a target rounded to float32 would be off by 1e-8.
    loss, metrics = ipo(POLICY, POLICY, WINS, beta=0.3)
    assert loss.item() == pytest.approx(25 / 9, abs=1e-14)
    assert metrics["gradient_factor"].item() == pytest.approx(1.0)


def test_it_pushes_back_beyond_the_target():
    policy = POLICY.clone().requires_grad_()
    ipo(policy, REFERENCE, WINS, beta=5)[0].backward()
    assert policy.grad is not None
    # d/d pol_w = -2 (m - 0.1) / B: -0.05 where the margin is past the target, 0.17 where it is short
    assert policy.grad.flatten().tolist() == pytest.approx([-0.05, 0.05, 0.17, -0.17], abs=1e-12)


def test_the_target_of_a_tie_is_zero():
    loss, metrics = ipo(POLICY, REFERENCE, torch.tensor([[1.0, 0.0], [0.5, 0.5]]), beta=5)
    assert loss.item() == pytest.approx((0.05**2 + 0.07**2) / 2, abs=1e-12)
    assert metrics["gradient_factor"].item() == pytest.approx((0.5 + 0.7) / 2, abs=1e-6)
