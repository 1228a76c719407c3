import math

import pytest
import torch

from palate.objectives import dpo, rank_dpo, win_rates

# Gains 0.10, -0.05, -0.15: margins 0.15, 0.25, 0.10.
POLICY = torch.tensor([[0.30, 0.50, 0.60]], dtype=torch.float64)
REFERENCE = torch.tensor([[0.40, 0.45, 0.45]], dtype=torch.float64)
PHI = torch.tensor([[0.9, 0.5, 0.1]], dtype=torch.float64)


def minus_log_sigmoid(z: float) -> float:
    return math.log(1 + math.exp(-z))


def change(phi_i: float, phi_j: float, rank_i: float, rank_j: float) -> float:
    return abs(2**phi_i - 2**phi_j) * abs(1 / math.log(1 + rank_i) - 1 / math.log(1 + rank_j))


def test_a_pair_is_dpo_of_the_same_beta_times_its_dcg_weight():
    policy = torch.tensor([[0.30, 0.50], [0.45, 0.40]], dtype=torch.float64)
    reference = torch.tensor([[0.40, 0.45], [0.42, 0.44]], dtype=torch.float64)
    labels = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    plain, plain_metrics = dpo(policy, reference, labels, beta=20)
    for rank_source in ("label", "model"):
        for gains in ("label", "win_rate"):
            loss, metrics = rank_dpo(policy, reference, labels, beta=20, rank_source=rank_source, gains=gains)
            assert loss.item() / plain.item() == pytest.approx(0.5325, abs=5e-5)
            assert loss.item() / plain.item() == pytest.approx(1 / math.log(2) - 1 / math.log(3), abs=1e-14)
            assert {name: value.item() for name, value in metrics.items()} == pytest.approx(
                {name: value.item() for name, value in plain_metrics.items()}, abs=1e-6
            )


def test_all_pairs_by_hand():
    loss, _ = rank_dpo(POLICY, REFERENCE, PHI, beta=20, gains="label")
    by_hand = (
        change(0.9, 0.5, 1, 2) * minus_log_sigmoid(1.5)
        + change(0.9, 0.1, 1, 3) * minus_log_sigmoid(2.5)
        + change(0.5, 0.1, 2, 3) * minus_log_sigmoid(1.0)
    )
    assert loss.item() == pytest.approx(by_hand, abs=1e-12)


def test_the_models_own_ranks_by_hand():
    # Gains -0.15, 0.10, -0.05 for labels 1, 0.5, 0: the model's ranks are 3, 1, 2.
    loss, _ = rank_dpo(POLICY[:, [2, 0, 1]], REFERENCE[:, [2, 0, 1]], PHI, beta=20, rank_source="model", gains="label")
    by_hand = (
        change(0.9, 0.5, 3, 1) * minus_log_sigmoid(-2.5)
        + change(0.9, 0.1, 3, 2) * minus_log_sigmoid(-1.0)
        + change(0.5, 0.1, 1, 2) * minus_log_sigmoid(1.5)
    )
    assert loss.item() == pytest.approx(by_hand, abs=1e-12)


def test_at_policy_equals_reference_the_labels_rank_for_the_model():
    policy = REFERENCE.clone().requires_grad_()
    by_model, _ = rank_dpo(policy, REFERENCE, PHI, beta=20, rank_source="model")
    by_label, metrics = rank_dpo(REFERENCE, REFERENCE, PHI, beta=20)
    assert by_model.item() == by_label.item() > 0
    assert metrics["gradient_factor"].item() == 0.5
    (gradient,) = torch.autograd.grad(by_model, policy)
    assert gradient[0, 0].item() > 0 > gradient[0, 2].item()


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([1.0, 0.0], [1, 0]),
        ([3.0, 1.0, 0.0, 0.0], [1, 2 / 3, 1 / 6, 1 / 6]),
        ([22.9, 21.3, 21.3, 19.0], [1, 0.5, 0.5, 0]),
        ([7.0, 7.0, 7.0], [0.5, 0.5, 0.5]),
    ],
)
def test_win_rates(labels, expected):
    assert win_rates(torch.tensor([labels]))[0].tolist() == pytest.approx(expected)


def test_votes_are_win_rates_by_default_and_as_they_are_on_demand():
    votes = torch.tensor([[30.0, 1.0, 0.0]])
    rates = torch.tensor([[1.0, 0.5, 0.0]])
    loss, _ = rank_dpo(POLICY, REFERENCE, votes, beta=20)
    same, _ = rank_dpo(POLICY, REFERENCE, rates, beta=20, gains="label")
    assert loss.item() == pytest.approx(same.item(), abs=1e-12)
    assert rank_dpo(POLICY, REFERENCE, votes, beta=20, gains="label")[0].item() > 1e6 * loss.item()


def test_the_mean_is_over_groups():
    twice, _ = rank_dpo(POLICY.repeat(2, 1), REFERENCE.repeat(2, 1), PHI.repeat(2, 1), beta=20)
    assert twice.item() == pytest.approx(rank_dpo(POLICY, REFERENCE, PHI, beta=20)[0].item(), abs=1e-14)


def test_equal_labels_have_no_weight_and_share_their_rank():
    labels = torch.tensor([[1.0, 0.5, 0.5]])
    policy = POLICY.clone().requires_grad_()
    loss, _ = rank_dpo(policy, REFERENCE, labels, beta=20, gains="label")
    weight = change(1.0, 0.5, 1, 2.5)
    assert loss.item() == pytest.approx(weight * (minus_log_sigmoid(1.5) + minus_log_sigmoid(2.5)), abs=1e-12)
    swapped, _ = rank_dpo(POLICY[:, [0, 2, 1]], REFERENCE[:, [0, 2, 1]], labels, beta=20, gains="label")
    assert swapped.item() == pytest.approx(loss.item(), abs=1e-12)


@pytest.mark.parametrize("rank_source", ["label", "model"])
def test_a_fully_tied_group_is_a_zero_with_a_gradient(rank_source):
    policy = POLICY.clone().requires_grad_()
    loss, metrics = rank_dpo(policy, REFERENCE, torch.ones(1, 3), beta=20, rank_source=rank_source)
    loss.backward()
    assert loss.item() == 0.0
    assert policy.grad is not None
    assert policy.grad.abs().max().item() == 0.0
    assert metrics["gradient_factor"].item() == 0.0


def test_pairs_go_by_their_labels_whatever_the_order_of_the_columns():
    loss, _ = rank_dpo(POLICY, REFERENCE, PHI, beta=20)
    turned, _ = rank_dpo(POLICY.flip(1), REFERENCE.flip(1), PHI.flip(1), beta=20)
    assert turned.item() == pytest.approx(loss.item(), abs=1e-12)


def test_an_unknown_label_is_in_no_pair():
    policy = POLICY.clone().requires_grad_()
    loss, _ = rank_dpo(policy, REFERENCE, torch.tensor([[0.9, math.nan, 0.1]]), beta=20, gains="label")
    (gradient,) = torch.autograd.grad(loss, policy)
    assert gradient[0, 1].item() == 0.0
    assert gradient[0, 0].item() > 0 > gradient[0, 2].item()


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"rank_source": "judge"}, "expected 'label' or 'model'"), ({"gains": "votes"}, "expected 'win_rate' or 'label'")],
)
def test_unknown_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        rank_dpo(POLICY, REFERENCE, PHI, beta=1, **settings)
