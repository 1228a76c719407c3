import pytest
import torch

from palate.objectives import anchored_dpo, dpo

# The pairs of test_dpo: DPO's loss is 0.6522997 at beta = 20; the winners' errors are 0.30 and 0.45.
POLICY = torch.tensor([[0.30, 0.50], [0.45, 0.40]], dtype=torch.float64)
REFERENCE = torch.tensor([[0.40, 0.45], [0.42, 0.44]], dtype=torch.float64)
WINS = torch.tensor([[1.0, 0.0], [1.0, 0.0]])


def test_loss_by_hand():
    loss, metrics = anchored_dpo(POLICY, REFERENCE, WINS, beta=20, anchor=2.0)
    assert loss.item() == pytest.approx(0.6522997 + 2 * 0.375, abs=1e-7)
    assert metrics["preference_loss"].item() == pytest.approx(0.6522997, abs=1e-6)
    assert metrics["anchor_loss"].item() == pytest.approx(0.375, abs=1e-6)


def test_the_default_anchor_is_tangoflux_1():
    plain, _ = dpo(POLICY, REFERENCE, WINS, beta=20)
    assert anchored_dpo(POLICY, REFERENCE, WINS, beta=20)[0].item() == pytest.approx(plain.item() + 0.375, abs=1e-12)


def test_without_an_anchor_it_is_dpo():
    smooth = {"beta": 20, "label_smoothing": 0.1, "smoothing": "robust"}
    plain, _ = dpo(POLICY, REFERENCE, WINS, **smooth)
    assert anchored_dpo(POLICY, REFERENCE, WINS, anchor=0.0, **smooth)[0].item() == plain.item()


def test_a_tie_anchors_neither_candidate():
    ties = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    _, metrics = anchored_dpo(POLICY, REFERENCE, ties, beta=20)
    assert metrics["anchor_loss"].item() == pytest.approx(0.30 / 2, abs=1e-6)


def test_the_anchor_pulls_the_winner_only():
    gradients = []
    for anchor in (0.0, 3.0):
        policy = POLICY.clone().requires_grad_()
        loss, _ = anchored_dpo(policy, REFERENCE, WINS, beta=20, anchor=anchor)
        gradients += torch.autograd.grad(loss, policy)
    expected = torch.tensor([[1.5, 0.0], [1.5, 0.0]], dtype=torch.float64)  # anchor / B
    torch.testing.assert_close(gradients[1] - gradients[0], expected, rtol=0, atol=1e-12)


def test_negative_anchor():
    with pytest.raises(ValueError, match=r"anchor is -1\.0"):
        anchored_dpo(POLICY, REFERENCE, WINS, beta=20, anchor=-1.0)
