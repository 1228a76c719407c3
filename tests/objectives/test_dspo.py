import pytest
import torch

from palate.objectives import dspo


def networks(seed: int = 0):
    """Policy's, reference's and true vectors [B, k, D] of three groups of three, in float64."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(3, 3, 20, generator=generator, dtype=torch.float64)
    reference = target + 0.8 * torch.randn(3, 3, 20, generator=generator, dtype=torch.float64)
    policy = reference + 0.3 * torch.randn(3, 3, 20, generator=generator, dtype=torch.float64)
    return policy, reference, target


def mean_square(difference: torch.Tensor) -> torch.Tensor:
    return difference.square().mean(dim=2)


def loss_of(policy, reference, target, labels, **settings):
    return dspo(
        mean_square(policy - target),
        mean_square(reference - target),
        labels,
        drift=mean_square(policy - reference),
        **settings,
    )


@pytest.mark.parametrize("beta", [0.001, 0.05, 3.0])
def test_loss_and_gradient_are_those_of_the_formula_on_vectors(beta):
    policy, reference, target = networks()
    labels = torch.tensor([[3.0, 2.0, 1.0]]).repeat(3, 1)
    policy.requires_grad_()
    loss, metrics = loss_of(policy, reference, target, labels, beta=beta)
    (gradient,) = torch.autograd.grad(loss, policy)

    gains = mean_square(reference - target) - mean_square(policy - target)
    u = 0.5 * beta * (gains[:, 0] - gains[:, 2])
    residual = policy[:, 0] - target[:, 0]
    pulled = residual - beta * (1 - u.sigmoid())[:, None] * (policy[:, 0] - reference[:, 0])
    expected = pulled.square().mean(dim=1).mean()
    (expected_gradient,) = torch.autograd.grad(expected, policy)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-14)
    assert metrics["gradient_factor"].item() == pytest.approx((1 - u.sigmoid()).mean().item(), abs=1e-6)


def test_the_drift_must_carry_gradient():
    policy, reference, target = networks()
    labels = torch.tensor([[1.0, 0.5, 0.0]]).repeat(3, 1)
    policy.requires_grad_()
    errors, of_reference = mean_square(policy - target), mean_square(reference - target)
    drift = mean_square(policy - reference)
    whole, cut = (
        torch.autograd.grad(dspo(errors, of_reference, labels, drift=d, beta=1.0)[0], policy, retain_graph=True)[0]
        for d in (drift, drift.detach())
    )
    assert (whole - cut).abs().max().item() > 1e-3


def test_at_policy_equals_reference_it_denoises_the_winner():
    _, reference, target = networks()
    policy = reference.clone().requires_grad_()
    labels = torch.tensor([[1.0, 0.5, 0.0]]).repeat(3, 1)
    loss, metrics = loss_of(policy, reference, target, labels, beta=1.0)
    assert loss.item() == pytest.approx(mean_square(reference - target)[:, 0].mean().item(), abs=1e-12)
    assert metrics["gradient_factor"].item() == 0.5
    (gradient,) = torch.autograd.grad(loss, policy)
    # b = 0 and c = 1/2: the gradient of |a - b/2|^2 is 2 a (1 - 1/2), in a mean over 20 elements and 3 groups.
    torch.testing.assert_close(gradient[:, 0], (reference - target)[:, 0] / 60, rtol=1e-10, atol=1e-14)
    assert gradient[:, 1:].abs().max().item() == 0.0


def test_a_tie_is_a_zero_in_the_mean():
    policy, reference, target = networks()
    labels = torch.tensor([[1.0, 0.5, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    loss, metrics = loss_of(policy, reference, target, labels, beta=1.0)
    alone, _ = loss_of(policy[:1], reference[:1], target[:1], labels[:1], beta=1.0)
    assert loss.item() == pytest.approx(alone.item() / 3, abs=1e-12)
    assert metrics["accuracy_count"].item() == 1


@pytest.mark.parametrize("loser", [0.0, 1e6])
def test_extreme_errors_stay_finite(loser):
    policy = torch.tensor([[1e6, loser]], requires_grad=True)
    drift = torch.tensor([[1e6, loser]], requires_grad=True)
    loss, _ = dspo(policy, torch.ones(1, 2), torch.tensor([[1.0, 0.0]]), drift=drift, beta=1.0)
    assert torch.isfinite(loss)
    assert all(torch.isfinite(gradient).all() for gradient in torch.autograd.grad(loss, (policy, drift)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reference_errors": None}, "reference_errors is None"),
        ({"drift": torch.ones(2, 1)}, r"drift has shape \(2, 1\)"),
        ({"drift": None}, "drift is None"),
        ({"beta": 0.0}, "beta is 0.0"),
    ],
)
def test_bad_arguments(change, message):
    ones = torch.ones(2, 2)
    given = {"policy_errors": ones, "reference_errors": ones, "labels": ones, "drift": ones} | change
    with pytest.raises(ValueError, match=message):
        dspo(**given)
