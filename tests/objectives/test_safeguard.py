import pytest
import torch

from palate.diffusion.likelihood import residual_overlap
from palate.objectives import dmpo, dpo, safeguarded


def networks(aligned: float):
    """Predictions and targets [B, 2, D]; the loser's residual is `aligned` times the winner's plus its own."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(4, 2, 30, generator=generator, dtype=torch.float64)
    residual = torch.randn(4, 2, 30, generator=generator, dtype=torch.float64)
    residual[:, 1] = aligned * residual[:, 0] + 0.3 * residual[:, 1]
    return (target + residual).requires_grad_(), target


def numbers(prediction, target):
    residual = prediction - target
    products = (residual[:, :1] * residual).mean(dim=2).detach()
    return residual.square().mean(dim=2), products


def products(shared):
    """Beside a winner's own product of 1."""
    return torch.stack([torch.ones(len(shared)), torch.tensor(shared)], dim=1)


LABELS = torch.tensor([[1.0, 0.0]]).repeat(4, 1)
REFERENCE = torch.full((4, 2), 1.0, dtype=torch.float64)


def test_lambda_is_that_of_the_gradients_of_the_mean_errors():
    prediction, target = networks(aligned=2.0)
    errors, overlap = numbers(prediction, target)
    # The published rule, from autograd on the two batch means.
    winner, loser = (torch.autograd.grad(errors[:, i].mean(), prediction, retain_graph=True)[0] for i in (0, 1))
    product = (winner[:, 0] * loser[:, 1]).sum()
    expected = 0.4 * winner.square().sum() / product
    assert 0 < expected.item() < 1
    _, metrics = safeguarded(dpo, mu=0.6)(errors, REFERENCE, LABELS, overlap=overlap, beta=20)
    assert metrics["safeguard"].item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("objective", [dpo, dmpo])
def test_value_stays_and_only_the_losers_gradient_is_scaled(objective):
    prediction, target = networks(aligned=2.0)
    errors, overlap = numbers(prediction, target)
    errors = errors.detach().requires_grad_()
    plain, plain_metrics = objective(errors, REFERENCE, LABELS, beta=2)
    loss, metrics = safeguarded(objective, mu=0.6)(errors, REFERENCE, LABELS, overlap=overlap, beta=2)
    assert loss.item() == plain.item()
    assert metrics.keys() == plain_metrics.keys() | {"safeguard"}
    (free,), (guarded,) = torch.autograd.grad(plain, errors), torch.autograd.grad(loss, errors)
    scale = 0.4 * errors[:, 0].sum() / overlap[:, 1].sum()
    assert torch.equal(guarded[:, 0], free[:, 0])
    torch.testing.assert_close(guarded[:, 1], scale * free[:, 1], rtol=1e-12, atol=0)


def test_a_step_on_the_outputs_does_not_raise_the_winners_error():
    # One shared output, as far as the first order goes: move it down the winner's and up the loser's gradient.
    prediction, target = networks(aligned=2.0)
    errors, overlap = numbers(prediction, target)
    _, metrics = safeguarded(dpo, mu=0.1)(errors, REFERENCE, LABELS, overlap=overlap, beta=20)
    residual = (prediction - target).detach()
    for scale, kept in ((metrics["safeguard"].double(), True), (torch.tensor(1.0).double(), False)):
        change = -(residual[:, 0] * (residual[:, 0] - scale * residual[:, 1])).sum()
        assert (change.item() < 0) == kept


def test_a_step_on_a_linear_network_leaves_the_weighted_winner_error_where_it_is():
    """One weight for each group, so that winner and loser have one output: at mu = 0 the first order just vanishes."""
    weights = torch.tensor([[1.0], [0.01]], dtype=torch.float64)
    residuals = torch.tensor([[[1.0], [3.0]], [[10.0], [0.0]]], dtype=torch.float64)
    network = torch.zeros(2, 1, 1, dtype=torch.float64, requires_grad=True)
    target = -residuals
    prediction = network.expand(2, 2, 1)
    errors = weights * (prediction - target).square().mean(2)
    (winner,) = torch.autograd.grad(errors[:, 0].sum(), network, retain_graph=True)
    overlap = residual_overlap(
        prediction.flatten(0, 1), target.flatten(0, 1), 2, weights=weights.expand(2, 2).flatten()
    )

    def plain(policy, reference, labels):
        return (policy[:, 0] - policy[:, 1]).sum(), {}

    loss, metrics = safeguarded(plain, mu=0)(errors, None, LABELS[:2], overlap=overlap)
    (step,) = torch.autograd.grad(loss, network)
    assert (winner * step).sum().item() == pytest.approx(0, abs=1e-12)
    assert metrics["safeguard"].item() == pytest.approx((1 + 0.01**2 * 100) / 3)


@pytest.mark.parametrize(
    ("overlap", "expected"),
    [
        ([-1.0, -1.0, 0.5, 0.5], 1.0),  # the loser's push helps the winner
        ([0.0, 0.0, 0.0, 0.0], 1.0),
        ([0.1, 0.1, 0.1, 0.1], 1.0),  # 0.5 * 4 / 0.4, clamped
        ([2.0, 2.0, 2.0, 2.0], 0.25),
        ([8.0, 0.0, 0.0, 0.0], 0.25),  # one number for the batch
    ],
)
def test_lambda_by_hand(overlap, expected):
    errors = torch.ones(4, 2)
    _, metrics = safeguarded(dpo, mu=0.5)(errors, REFERENCE, LABELS, overlap=products(overlap), beta=1)
    assert metrics["safeguard"].item() == expected


def test_sums_over_elements_scale_alike():
    errors, overlap = torch.rand(4, 2), torch.rand(4, 2) + 1
    by_mean, by_sum = (
        safeguarded(dpo, mu=0.5)(f * errors, f * REFERENCE, LABELS, overlap=f * overlap, beta=1)[1] for f in (1, 1024)
    )
    assert by_mean["safeguard"].item() == pytest.approx(by_sum["safeguard"].item())


def test_ties_take_no_part_and_keep_their_gradients():
    errors = torch.ones(4, 2, dtype=torch.float64, requires_grad=True)
    overlap = products([2.0, 2.0, 100.0, 100.0])
    labels = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.5, 0.5], [0.5, 0.5]])
    reference = torch.tensor([[1.0, 1.5]] * 4, dtype=torch.float64)
    plain, _ = dpo(errors, reference, labels, beta=2)
    loss, metrics = safeguarded(dpo, mu=0.5)(errors, reference, labels, overlap=overlap, beta=2)
    assert metrics["safeguard"].item() == 0.25
    (free,), (guarded,) = torch.autograd.grad(plain, errors), torch.autograd.grad(loss, errors)
    torch.testing.assert_close(guarded[:2, 1], 0.25 * free[:2, 1], rtol=1e-12, atol=0)
    assert torch.equal(guarded[2:], free[2:])
    assert free[2, 1].item() != 0
    _, of_ties = safeguarded(dpo, mu=0.5)(errors, reference, torch.ones(4, 2), overlap=overlap, beta=2)
    assert of_ties["safeguard"].item() == 1.0


def test_only_the_ends_of_a_group_count():
    errors = torch.tensor([[1.0, 9.0, 2.0]], requires_grad=True)
    guarded = safeguarded(dpo, mu=0.5)
    loss, metrics = guarded(errors, torch.ones(1, 3), torch.tensor([[3.0, 2.0, 1.0]]), overlap=torch.ones(1, 2), beta=1)
    assert metrics["safeguard"].item() == 0.5
    (gradient,) = torch.autograd.grad(loss, errors)
    assert gradient[0, 1].item() == 0.0
    assert gradient[0, 2].item() == pytest.approx(-gradient[0, 0].item() / 2)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"mu is 1\.5"):
        safeguarded(dpo, mu=1.5)
    with pytest.raises(ValueError, match=r"overlap has shape \(4,\); expected"):
        safeguarded(dpo, mu=0.5)(REFERENCE, REFERENCE, LABELS, overlap=torch.ones(4), beta=1)
