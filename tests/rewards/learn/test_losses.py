"""The losses by hand, and the identities that tie them together."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from palate.rewards.learn.losses import (
    LOSSES,
    btt_loss,
    hpsv2_loss,
    imagereward_loss,
    pairs_of,
    pickscore_loss,
    step_weights,
    uncertainty_loss,
)

LN2 = math.log(2)
WIN, TIE, LOSS = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]]), torch.tensor([[0.0, 1.0]])
LN3 = torch.tensor([[math.log(3), 0.0]], dtype=torch.float64)  # softmax gives 3/4 and 1/4
ALL = pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if not loss.spread])


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_pickscore_by_hand():
    assert pickscore_loss(LN3, WIN).item() == pytest.approx(math.log(4 / 3))
    assert pickscore_loss(LN3, LOSS).item() == pytest.approx(math.log(4))
    # KL((½, ½) ‖ (¾, ¼)) = ½ ln(2/3) + ½ ln 2
    assert pickscore_loss(LN3, TIE).item() == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * LN2)


def test_hpsv2_by_hand():
    assert hpsv2_loss(LN3, WIN).item() == pytest.approx(math.log(4 / 3))
    assert hpsv2_loss(LN3, TIE).item() == pytest.approx(0.5 * math.log(4 / 3) + 0.5 * math.log(4))


def test_pickscore_is_the_kl_that_torch_gives():
    generator = torch.Generator().manual_seed(0)
    scores = 20 * torch.rand(50, 2, generator=generator, dtype=torch.float64)
    target = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]], dtype=torch.float64)[torch.arange(50) % 3]
    wanted = F.kl_div(scores.log_softmax(dim=1), target, reduction="none").sum(dim=1)
    torch.testing.assert_close(pickscore_loss(scores, target), wanted, rtol=0, atol=1e-12)
    cross_entropy = -(target * scores.log_softmax(dim=1)).sum(dim=1)
    torch.testing.assert_close(hpsv2_loss(scores, target), cross_entropy, rtol=0, atol=1e-12)


def test_a_tie_with_equal_scores_costs_nothing_and_pulls_nowhere():
    scores = torch.tensor([[21.5, 21.5]], requires_grad=True)
    loss = pickscore_loss(scores, TIE)
    loss.sum().backward()
    assert loss.item() == pytest.approx(0, abs=1e-7)
    assert scores.grad is not None
    assert scores.grad.abs().max().item() == 0


def test_imagereward_over_all_ordered_pairs_by_hand():
    # Ranked b = c > a: two decided pairs, a tie that is skipped.
    scores, labels = torch.tensor([[1.0, 3.0, 0.5]]), torch.tensor([[1.0, 2.0, 2.0]])
    wanted = (-math.log(sigma(2.0)) - math.log(sigma(-0.5))) / 2
    assert imagereward_loss(scores, labels).item() == pytest.approx(wanted)
    assert imagereward_loss(scores, torch.ones(1, 3)).item() == 0


def test_btt_by_hand():
    theta = 5.0
    # P(win) = e^a / (e^a + θ e^b) with e^a = 3, e^b = 1
    assert btt_loss(LN3, WIN).item() == pytest.approx(-math.log(3 / (3 + 5)))
    assert btt_loss(LN3, LOSS).item() == pytest.approx(-math.log(1 / (1 + 15)))
    tie = (theta**2 - 1) * 3 / ((3 + theta) * (theta * 3 + 1))
    assert btt_loss(LN3, TIE).item() == pytest.approx(-math.log(tie))
    with pytest.raises(ValueError, match=r"k is 1.0; expected a number above 1"):
        btt_loss(LN3, WIN, k=1.0)


@pytest.mark.parametrize("k", [1.01, 2.0, 5.0, 40.0])
@pytest.mark.parametrize("difference", [-7.0, -0.3, 0.0, 2.5])
def test_btts_probabilities_add_up_to_one(k, difference):
    scores = torch.tensor([[difference, 0.0]], dtype=torch.float64)
    assert sum(math.exp(-btt_loss(scores, labels, k).item()) for labels in (WIN, TIE, LOSS)) == pytest.approx(1)


def quadrature(mean: float, spread: float) -> float:
    """-E log σ(z), z ~ N(mean, spread²), by Gauss and Hermite's rule."""
    nodes, weights = np.polynomial.hermite.hermgauss(80)
    return float((weights * np.logaddexp(0, -(mean + math.sqrt(2) * spread * nodes))).sum() / math.sqrt(math.pi))


@pytest.mark.parametrize(("means", "sigmas"), [((1.2, 0.4), (0.5, 0.8)), ((-0.5, 1.5), (1.5, 0.3))])
def test_uncertainty_is_the_expectation(means, sigmas):
    mu, log_sigma = torch.tensor([means]), torch.tensor([sigmas]).log()
    loss = uncertainty_loss(mu, log_sigma, WIN).item()
    spread = math.hypot(*sigmas)
    assert loss == pytest.approx(quadrature(means[0] - means[1], spread), abs=0.002)
    assert loss > probit(means[0] - means[1], spread)  # Jensen's inequality


def probit(mean: float, spread: float) -> float:
    """The closed form that approximates -log E σ(z)."""
    return -math.log(sigma(mean / math.sqrt(1 + math.pi * spread**2 / 8)))


def test_a_little_uncertainty_is_the_closed_form():
    mu, log_sigma = torch.tensor([[0.7, 0.0]]), torch.tensor([[0.1, 0.2]]).log()
    loss = uncertainty_loss(mu, log_sigma, WIN).item()
    assert loss == pytest.approx(probit(0.7, math.hypot(0.1, 0.2)), abs=0.006)


def test_without_uncertainty_it_is_bradley_and_terrys():
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(20, 4, generator=generator)
    labels = torch.randint(0, 3, (20, 4), generator=generator).float()
    loss = uncertainty_loss(scores, torch.full_like(scores, -20.0), labels, samples=3)
    torch.testing.assert_close(loss, imagereward_loss(scores, labels), rtol=0, atol=1e-5)


def test_uncertaintys_gradients_reach_both_numbers():
    mu, log_sigma = torch.tensor([[0.0, 1.0]], requires_grad=True), torch.zeros(1, 2, requires_grad=True)
    uncertainty_loss(mu, log_sigma, WIN).sum().backward()
    assert mu.grad is not None
    assert log_sigma.grad is not None
    assert mu.grad[0, 0] < 0 < mu.grad[0, 1]
    assert (log_sigma.grad > 0).all()  # a wrong order that is sure costs less when it is less spread


@ALL
def test_only_differences_and_their_sides_count(name):
    generator = torch.Generator().manual_seed(2)
    scores = torch.randn(30, 3, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (30, 3), generator=generator).double()
    loss = LOSSES[name].function(scores, labels)
    torch.testing.assert_close(LOSSES[name].function(scores + 7, 10 * labels - 3), loss, rtol=0, atol=1e-9)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(LOSSES[name].function(scores[:, order], labels[:, order]), loss, rtol=0, atol=1e-9)


@ALL
def test_an_absent_candidate_changes_nothing(name):
    scores, labels = torch.tensor([[0.3, -1.0, 2.0]]), torch.tensor([[2.0, 1.0, 1.0]])
    padded = torch.tensor([[0.3, -1.0, 2.0, 0.0, 9.0]], requires_grad=True)
    absent = torch.tensor([[2.0, 1.0, 1.0, math.nan, math.nan]])
    loss = LOSSES[name].function(padded, absent)
    torch.testing.assert_close(loss.detach(), LOSSES[name].function(scores, labels))
    loss.sum().backward()
    assert padded.grad is not None
    assert padded.grad[0, 3:].tolist() == [0, 0]
    assert padded.grad.isfinite().all()


@ALL
def test_half_precision_and_large_scores_stay_finite(name):
    scores = torch.tensor([[900.0, -900.0]], dtype=torch.bfloat16)
    for labels in (WIN, TIE, LOSS):
        loss = LOSSES[name].function(scores, labels)
        assert loss.dtype == torch.float32
        assert loss.isfinite().all()


def test_the_pairs_of_a_group():
    pairs = pairs_of(torch.tensor([[5.0, 3.0, 4.0]]), torch.tensor([[1.0, 2.0, math.nan]]))
    assert pairs.difference.tolist() == [[2, 1, -1]]
    assert pairs.there.tolist() == [[True, False, False]]
    assert pairs.advantage[0, 0].item() == -2
    with pytest.raises(ValueError, match=r"got scores \(2, 1\) and labels \(2, 1\); expected both \[B, k\]"):
        pairs_of(torch.zeros(2, 1), torch.zeros(2, 1))


def test_weights_of_prompts_are_the_authors():
    # Prompts that occur 1, 1 and 4 times: 1, 1, ¼ over 9/4, and the step's mean of weight * loss is their sum.
    assert [w / 3 for w in step_weights("prompts", [1, 1, 4], [1, 1, 1])] == pytest.approx([4 / 9, 4 / 9, 1 / 9])


def test_weights_of_pairs_make_the_mean_over_pairs():
    generator = torch.Generator().manual_seed(3)
    scores, labels = torch.randn(2, 4, generator=generator), torch.tensor([[3.0, 2, 1, 0], [1, 1, 1, 0]])
    weights = torch.tensor(step_weights("pairs", [1, 1], [6, 3]))
    pairs = pairs_of(scores, labels)
    wanted = F.softplus(-pairs.advantage[pairs.decided]).mean()
    torch.testing.assert_close((weights * imagereward_loss(scores, labels)).mean(), wanted)


def test_weights_of_a_sum():
    losses = torch.tensor([0.5, 0.25, 1.0])
    assert (torch.tensor(step_weights("sum", [1, 2, 3], [1, 1, 1])) * losses).mean().item() == pytest.approx(1.75)
