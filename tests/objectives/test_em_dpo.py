import math

import pytest
import torch

from palate.objectives import em_dpo
from palate.objectives.dpo import conservative

# beta = 2, so z is the margin itself: 1.5, -0.7, 3.0, and -2.5.
MARGINS = [1.5, -0.7, 3.0, -2.5]
POLICY = torch.tensor([[0.0, m] for m in MARGINS], dtype=torch.float64)
ZERO = torch.zeros(4, 2, dtype=torch.float64)
WINS = torch.tensor([[1.0, 0.0]]).repeat(4, 1)


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def expected_flips(e: float, margins=MARGINS) -> list[float]:
    """1 - w, by Bayes' rule."""
    return [e * sigmoid(-z) / (e * sigmoid(-z) + (1 - e) * sigmoid(z)) for z in margins]


def test_loss_by_hand():
    e = 0.2
    for _ in range(2):
        e = sum(expected_flips(e)) / 4
    flips = expected_flips(e)
    loss, metrics = em_dpo(POLICY, ZERO, WINS, beta=2, flip_prior=0.2, rounds=2)
    terms = [(1 - f) * math.log(sigmoid(z)) + f * math.log(sigmoid(-z)) for f, z in zip(flips, MARGINS, strict=True)]
    assert loss.item() == pytest.approx(-sum(terms) / 4, abs=1e-12)
    assert metrics["flip_rate"].item() == pytest.approx(e, abs=1e-6)
    slopes = [abs(sigmoid(z) - (1 - f)) for f, z in zip(flips, MARGINS, strict=True)]
    assert metrics["gradient_factor"].item() == pytest.approx(sum(slopes) / 4, abs=1e-6)


def test_the_gradient_is_that_of_the_likelihood_of_the_labels():
    policy = POLICY.clone().requires_grad_()
    loss, metrics = em_dpo(policy, ZERO, WINS, beta=2, flip_prior=0.2)
    (gradient,) = torch.autograd.grad(loss, policy)
    e = metrics["flip_rate"].double()
    z = policy[:, 1] - policy[:, 0]
    likelihood = (1 - e) * torch.sigmoid(z) + e * torch.sigmoid(-z)
    (expected,) = torch.autograd.grad(-likelihood.log().mean(), policy)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-7)


def test_every_pair_pulls_the_right_way_and_contradicted_ones_hardly():
    margins = [0.0, -1.0, -3.0, -8.0]
    policy = torch.tensor([[0.0, m] for m in margins], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(em_dpo(policy, ZERO, WINS, beta=2, flip_prior=0.1, rounds=1)[0], policy)
    assert (gradient[:, 0] > 0).all()
    assert (gradient[:, 1] < 0).all()
    assert gradient[3, 0].item() < 0.02 * gradient[0, 0].item()


def test_at_policy_equals_reference_the_prior_stays():
    loss, metrics = em_dpo(ZERO, ZERO, WINS, beta=5000, flip_prior=0.3, rounds=10)
    assert loss.item() == pytest.approx(math.log(2), abs=1e-12)
    assert metrics["flip_rate"].item() == pytest.approx(0.3, abs=1e-6)
    assert metrics["gradient_factor"].item() == pytest.approx(0.2, abs=1e-6)


@pytest.mark.parametrize("true_rate", [0.05, 0.25])
def test_it_finds_the_rate_of_flips_of_a_calibrated_policy(true_rate):
    generator = torch.Generator().manual_seed(1)
    margins = 4 * torch.randn(20_000, generator=generator, dtype=torch.float64)
    first_wins = torch.rand(20_000, generator=generator) < torch.sigmoid(margins)
    flipped = torch.rand(20_000, generator=generator) < true_rate
    z = torch.where(first_wins ^ flipped, margins, -margins)
    policy = torch.stack([torch.zeros_like(z), z], dim=1)
    _, metrics = em_dpo(policy, torch.zeros_like(policy), WINS[:1].expand(20_000, 2), beta=2, rounds=50)
    assert metrics["flip_rate"].item() == pytest.approx(true_rate, abs=0.01)


def test_the_rate_stays_below_a_half():
    policy = torch.tensor([[0.0, -9.0]] * 4)
    _, metrics = em_dpo(policy, torch.zeros(4, 2), WINS, beta=2, rounds=30)
    assert metrics["flip_rate"].item() == pytest.approx(0.49)


def test_a_tie_counts_for_no_flip_and_pulls_to_the_reference():
    labels = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.5, 0.5]])
    loss, metrics = em_dpo(POLICY, ZERO, labels, beta=2)
    without, alone = em_dpo(POLICY[:3], ZERO[:3], WINS[:3], beta=2)
    tie = conservative(torch.tensor(-2.5, dtype=torch.float64), 0.5)
    assert loss.item() == pytest.approx((3 * without.item() + tie.item()) / 4, abs=1e-12)
    assert metrics["flip_rate"].item() == alone["flip_rate"].item()


def test_only_ties():
    policy = POLICY.clone().requires_grad_()
    loss, metrics = em_dpo(policy, ZERO, torch.ones(4, 2), beta=2)
    expected = conservative(torch.tensor(MARGINS, dtype=torch.float64), 0.5).mean()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-12)
    assert torch.isfinite(torch.autograd.grad(loss, policy)[0]).all()
    assert math.isnan(metrics["flip_rate"].item())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"flip_prior": 0.0}, "flip_prior is 0.0"),
        ({"flip_prior": 0.5}, "flip_prior is 0.5"),
        ({"rounds": 0}, "rounds is 0"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        em_dpo(POLICY, ZERO, WINS, beta=1, **settings)
