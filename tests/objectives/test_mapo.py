import math

import pytest
import torch

from palate.objectives import mapo
from palate.objectives.mapo import _phi

POLICY = torch.tensor([[0.30, 0.50], [0.45, 0.40]], dtype=torch.float64)
WINS = torch.tensor([[1.0, 0.0], [1.0, 0.0]])


def phi(u: float) -> float:
    return u / (math.exp(u) - 1)


def minus_log_sigmoid(z: float) -> float:
    return math.log(1 + math.exp(-z))


def test_loss_by_hand():
    # T = 10 and s = 0.5 keep z away from saturation: z = 0.466714 and -0.116159.
    z = [10 * (phi(0.15) - phi(0.25)), 10 * (phi(0.225) - phi(0.2))]
    assert z == pytest.approx([0.466714, -0.116159], abs=1e-6)
    loss, metrics = mapo(POLICY, None, WINS, beta=0.3, snr=0.5, steps=10)
    preference = (minus_log_sigmoid(z[0]) + minus_log_sigmoid(z[1])) / 2
    assert loss.item() == pytest.approx(0.375 + 0.3 * preference, abs=1e-12)
    expected = {
        "winner_error": 0.375,
        "loser_error": 0.45,
        "margin": (0.20 - 0.05) / 2,
        "accuracy": 0.5,
        "accuracy_count": 2,
        "gradient_factor": (1 / (1 + math.exp(z[0])) + 1 / (1 + math.exp(z[1]))) / 2,
        "preference_loss": preference,
        "anchor_loss": 0.375,
    }
    assert {name: value.item() for name, value in metrics.items()} == pytest.approx(expected, abs=1e-6)


def test_the_defaults_are_the_official_ones():
    explicit, _ = mapo(POLICY, None, WINS, beta=0.1, snr=0.5, steps=1000)
    assert mapo(POLICY, None, WINS)[0].item() == explicit.item()


@pytest.mark.parametrize(("error", "slope"), [(0.01, -249.6), (0.1, -245.8), (1.0, -208.7)])
def test_the_published_slopes(error, slope):
    at = torch.tensor(error, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(1000 * _phi(0.5 * at), at)
    assert gradient.item() == pytest.approx(slope, abs=0.05)


@pytest.mark.parametrize("u", [1e-12, 1e-6, 0.01, 0.0999999, 0.1000001, 0.5, 3.0, 30.0])
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float64, 1e-11), (torch.float32, 1e-5)])
def test_phi_and_its_slope(u, dtype, rounding):
    at = torch.tensor(u, dtype=dtype, requires_grad=True)
    value = _phi(at)
    (slope,) = torch.autograd.grad(value, at)
    # By the Bernoulli numbers to u^8, which is exact to 1e-12 below 0.3; the closed form beyond.
    if u < 0.3:
        by_hand = 1 - u / 2 + u**2 / 12 - u**4 / 720 + u**6 / 30240 - u**8 / 1209600
        its_slope = -1 / 2 + u / 6 - u**3 / 180 + u**5 / 5040 - u**7 / 151200
    else:
        by_hand, its_slope = phi(u), (math.expm1(u) - u * math.exp(u)) / math.expm1(u) ** 2
    assert value.item() == pytest.approx(by_hand, rel=rounding)
    assert slope.item() == pytest.approx(its_slope, rel=rounding, abs=0.1 * rounding)


@pytest.mark.parametrize(("u", "value", "slope"), [(0.0, 1.0, -0.5), (1e20, 0.0, 0.0)])
def test_phi_at_its_ends(u, value, slope):
    at = torch.tensor(u, requires_grad=True)
    _phi(at).backward()
    assert _phi(at).item() == value
    assert at.grad is not None
    assert at.grad.item() == slope


def test_a_tie_is_a_zero_in_both_means_and_has_no_gradient():
    policy = POLICY.clone().requires_grad_()
    loss, metrics = mapo(policy, None, torch.tensor([[1.0, 0.0], [0.5, 0.5]]), steps=10)
    alone, _ = mapo(POLICY[:1], None, WINS[:1], steps=10)
    assert loss.item() == pytest.approx(alone.item() / 2, abs=1e-12)
    assert metrics["accuracy"].item() == 1.0
    (gradient,) = torch.autograd.grad(loss, policy)
    assert gradient[1].tolist() == [0.0, 0.0]


def test_the_reference_is_never_looked_at():
    odd = torch.full((7,), math.nan)
    assert mapo(POLICY, odd, WINS)[0].item() == mapo(POLICY, None, WINS)[0].item()


@pytest.mark.parametrize("name", ["snr", "steps"])
def test_settings_out_of_range(name):
    with pytest.raises(ValueError, match=f"{name} is 0.0"):
        mapo(POLICY, None, WINS, **{name: 0.0})
