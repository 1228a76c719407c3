import math

import pytest
import torch

from palate.objectives import dpo, soft_dpo

# Margins 0.15 and -0.07; beta = 20, so kappa m = 1.5, -0.7.
POLICY = torch.tensor([[0.30, 0.50], [0.45, 0.40]], dtype=torch.float64)
REFERENCE = torch.tensor([[0.40, 0.45], [0.42, 0.44]], dtype=torch.float64)
SCORES = torch.tensor([[22.0, 20.0], [21.0, 20.9]], dtype=torch.float64)


def minus_log_sigmoid(z: float) -> float:
    return math.log(1 + math.exp(-z))


def soft(difference: float, scale: float) -> float:
    return 2 / (1 + math.exp(-difference / scale)) - 1


def test_loss_by_hand():
    loss, metrics = soft_dpo(POLICY, REFERENCE, SCORES, beta=20, label_scale=2.0, gamma=3.0)
    weights = [3 * soft(2.0, 2.0), 3 * soft(0.1, 2.0)]
    by_hand = (minus_log_sigmoid(1.5 * weights[0]) + minus_log_sigmoid(-0.7 * weights[1])) / 2
    assert loss.item() == pytest.approx(by_hand, abs=1e-12)
    assert metrics["label_weight"].item() == pytest.approx(sum(weights) / 2, abs=1e-6)


def test_smpo_on_min_max_normalised_cosines():
    # p is a softmax over two scores, each (cosine - 0.11544) / (0.28202 - 0.11544).
    cosines = torch.tensor([[0.2301, 0.2087], [0.2150, 0.2123]], dtype=torch.float64)
    p = (((cosines - 0.11544) / (0.28202 - 0.11544)).softmax(dim=1))[:, 0]
    z = torch.tensor([1.5, -0.7], dtype=torch.float64) * 10 * (2 * p - 1)
    expected = -torch.nn.functional.logsigmoid(z).mean()
    loss, _ = soft_dpo(POLICY, REFERENCE, cosines, beta=20, label_scale=0.16658)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-12)
    in_hundredths, _ = soft_dpo(POLICY, REFERENCE, 100 * cosines, beta=20, label_scale=16.658)
    assert in_hundredths.item() == pytest.approx(loss.item(), abs=1e-12)


def test_a_clear_winner_is_plain_dpo():
    labels = torch.tensor([[100.0, 0.0]]).repeat(2, 1)
    loss, metrics = soft_dpo(POLICY, REFERENCE, labels, beta=20, label_scale=1.0, gamma=1.0)
    assert loss.item() == pytest.approx(dpo(POLICY, REFERENCE, labels, beta=20)[0].item(), abs=1e-12)
    assert metrics["label_weight"].item() == 1.0


def test_pnapo_falls_along_a_cosine_to_half():
    # At half of the training 3/4 of beta is left, at its end 1/2.
    weights = [soft(2.0, 1.0) * 0.75, soft(0.1, 1.0) * 0.5]
    loss, _ = soft_dpo(
        *(POLICY, REFERENCE, SCORES),
        beta=20,
        label_scale=1.0,
        gamma=1.0,
        decay=0.5,
        progress=torch.tensor([0.5, 1.0], dtype=torch.float64),
    )
    by_hand = (minus_log_sigmoid(1.5 * weights[0]) + minus_log_sigmoid(-0.7 * weights[1])) / 2
    assert loss.item() == pytest.approx(by_hand, abs=1e-12)


def test_at_the_beginning_nothing_has_decayed():
    plain, _ = soft_dpo(POLICY, REFERENCE, SCORES, beta=20, label_scale=1.0)
    start, _ = soft_dpo(POLICY, REFERENCE, SCORES, beta=20, label_scale=1.0, decay=0.5, progress=torch.zeros(2))
    assert start.item() == pytest.approx(plain.item(), abs=1e-12)


def test_without_decay_progress_is_not_read():
    plain, _ = soft_dpo(POLICY, REFERENCE, SCORES, beta=20, label_scale=1.0)
    odd = torch.full((7,), math.nan)
    assert soft_dpo(POLICY, REFERENCE, SCORES, beta=20, label_scale=1.0, progress=odd)[0].item() == plain.item()


def test_a_tie_has_no_pull():
    policy = POLICY.clone().requires_grad_()
    loss, metrics = soft_dpo(policy, REFERENCE, torch.full((2, 2), 20.0), beta=20, label_scale=1.0)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2), abs=1e-12)
    assert policy.grad is not None
    assert policy.grad.abs().max().item() == 0.0
    assert metrics["label_weight"].item() == 0.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_scale": 0.0}, "label_scale is 0.0"),
        ({"gamma": -1.0}, "gamma is -1.0"),
        ({"decay": 1.0}, "decay is 1.0"),
        ({"decay": 0.5}, "progress is None"),
        ({"decay": 0.5, "progress": torch.zeros(3)}, r"progress has shape \(3,\); expected \[B\] = \(2,\)"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        soft_dpo(POLICY, REFERENCE, SCORES, **{"beta": 1.0, "label_scale": 1.0} | settings)
