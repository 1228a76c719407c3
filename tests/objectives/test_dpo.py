import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palate.objectives import dpo
from palate.objectives.dpo import conservative, robust

# Margins 0.15 and -0.07; beta = 20, so kappa = 10 and z = 1.5, -0.7.
POLICY = torch.tensor([[0.30, 0.50], [0.45, 0.40]], dtype=torch.float64)
REFERENCE = torch.tensor([[0.40, 0.45], [0.42, 0.44]], dtype=torch.float64)
WINS = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
logits = st.floats(-50, 50)
flips = st.floats(0, 0.49)


def minus_log_sigmoid(z: float) -> float:
    return math.log(1 + math.exp(-z))


def test_loss_by_hand():
    # ln(1 + e^-1.5) = 0.2014133 and ln(1 + e^0.7) = 1.1031860; their mean is 0.6522997.
    loss, metrics = dpo(POLICY, REFERENCE, WINS, beta=20)
    assert loss.item() == pytest.approx(0.6522997, abs=1e-7)
    # σ(-1.5) = 0.1824255 and σ(0.7) = 0.6681878
    assert metrics["gradient_factor"].item() == pytest.approx((0.1824255 + 0.6681878) / 2, abs=1e-6)


def test_it_is_the_mean_of_logs_not_the_log_of_the_mean():
    loss, _ = dpo(POLICY, REFERENCE, WINS, beta=20)
    of_the_mean = minus_log_sigmoid((1.5 - 0.7) / 2)
    assert loss.item() - of_the_mean > 0.1


def test_gradient_by_hand():
    policy = POLICY.clone().requires_grad_()
    dpo(policy, REFERENCE, WINS, beta=20)[0].backward()
    # d/d pol_w = kappa σ(-z) / B, and the opposite for the loser
    first, second = 10 * 0.18242552 / 2, 10 * 0.66818777 / 2
    assert policy.grad is not None
    assert policy.grad.flatten().tolist() == pytest.approx([first, -first, second, -second], abs=1e-6)


def test_conservative_smoothing_by_hand():
    loss, _ = dpo(POLICY[:1], REFERENCE[:1], WINS[:1], beta=20, label_smoothing=0.1, smoothing="conservative")
    # 0.9 * 0.2014133 + 0.1 * 1.7014133
    assert loss.item() == pytest.approx(0.3514133, abs=1e-7)


def test_robust_smoothing_by_hand():
    loss, _ = dpo(POLICY[:1], REFERENCE[:1], WINS[:1], beta=20, label_smoothing=0.1, smoothing="robust")
    # (0.9 * 0.2014133 - 0.1 * 1.7014133) / 0.8
    assert loss.item() == pytest.approx(0.0139133, abs=1e-7)


@pytest.mark.parametrize("smoothing", ["conservative", "robust"])
def test_no_smoothing_is_plain_dpo_and_every_form_starts_at_ln_2(smoothing):
    plain, _ = dpo(POLICY, REFERENCE, WINS, beta=20)
    assert dpo(POLICY, REFERENCE, WINS, beta=20, smoothing=smoothing)[0].item() == plain.item()
    start, metrics = dpo(POLICY, POLICY, WINS, beta=5000, label_smoothing=0.3, smoothing=smoothing)
    assert start.item() == pytest.approx(0.6931471805599453, abs=1e-12)
    assert metrics["gradient_factor"].item() == 0.5


@given(logits, flips)
def test_robust_is_unbiased_under_flipped_labels(z, e):
    right, flipped = torch.tensor([z, -z], dtype=torch.float64)
    expectation = (1 - e) * robust(right, e) + e * robust(flipped, e)
    assert expectation.item() == pytest.approx(minus_log_sigmoid(z), abs=1e-9)


@given(logits, st.floats(0.01, 0.49))
def test_conservative_is_least_where_the_sigmoid_is_one_minus_e(z, e):
    best = torch.tensor(math.log((1 - e) / e), dtype=torch.float64)
    assert conservative(torch.tensor(z, dtype=torch.float64), e) >= conservative(best, e) - 1e-12


@pytest.mark.parametrize("settings", [{}, {"label_smoothing": 0.2}, {"label_smoothing": 0.2, "smoothing": "robust"}])
def test_a_tie_is_no_win_for_either_side(settings):
    tie = torch.full((1, 2), 0.5)
    # z = 1.5: (0.2014133 + 1.7014133) / 2, and the same with the columns exchanged
    loss, _ = dpo(POLICY[:1], REFERENCE[:1], tie, beta=20, **settings)
    swapped, _ = dpo(POLICY[:1].flip(1), REFERENCE[:1].flip(1), tie, beta=20, **settings)
    assert loss.item() == pytest.approx(0.9514133, abs=1e-7)
    assert swapped.item() == pytest.approx(loss.item(), abs=1e-12)


def test_a_tie_pulls_the_margin_to_zero():
    tie = torch.full((2, 2), 0.5)
    policy = POLICY.clone().requires_grad_()
    dpo(policy, REFERENCE, tie, beta=20)[0].backward()
    assert policy.grad is not None
    # m > 0 in the first row: descent must raise the first error, so its gradient is negative; the second the reverse
    assert policy.grad.sign().tolist() == [[-1, 1], [1, -1]]
    at_reference = REFERENCE.clone().requires_grad_()
    dpo(at_reference, REFERENCE, tie, beta=20)[0].backward()
    assert at_reference.grad is not None
    assert at_reference.grad.abs().max().item() < 1e-12


def test_ties_and_wins_in_one_batch():
    labels = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    loss, metrics = dpo(POLICY, REFERENCE, labels, beta=20)
    # 0.2014133 and, for z = -0.7, (1.1031860 + 0.4031860) / 2
    assert loss.item() == pytest.approx((0.2014133 + 0.7531860) / 2, abs=1e-7)
    assert metrics["accuracy"].item() == 1.0


@pytest.mark.parametrize("smoothing", ["conservative", "robust"])
@pytest.mark.parametrize("sign", [1, -1])
def test_huge_margins_stay_finite(smoothing, sign):
    policy = torch.tensor([[0.0, sign * 1e6]], requires_grad=True)
    for labels in (WINS[:1], torch.zeros(1, 2)):
        loss, metrics = dpo(policy, torch.zeros(1, 2), labels, beta=5000, label_smoothing=0.1, smoothing=smoothing)
        (gradient,) = torch.autograd.grad(loss, policy)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()
        assert torch.isfinite(metrics["gradient_factor"])


@pytest.mark.parametrize("e", [-0.1, 0.5, 1.0, math.nan])
def test_smoothing_out_of_range(e):
    with pytest.raises(ValueError, match=f"label_smoothing is {e}"):
        dpo(POLICY, REFERENCE, WINS, beta=1, label_smoothing=e)


def test_unknown_smoothing():
    with pytest.raises(ValueError, match="expected 'conservative' or 'robust'"):
        dpo(POLICY, REFERENCE, WINS, beta=1, smoothing="none")  # pyright: ignore[reportArgumentType]
