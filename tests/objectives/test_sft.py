"""Fine-tuning on winners: the mean of the first column, and nothing of the others."""

import math

import pytest
import torch

from palate.objectives import sft

ERRORS = torch.tensor([[0.5, 0.7], [0.4, 0.1], [0.3, 0.3]])
LABELS = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 1.0]])


def test_the_loss_is_the_winners_mean_error():
    errors = ERRORS.clone().requires_grad_()
    loss, metrics = sft(errors, None, LABELS)
    loss.backward()
    assert loss.item() == pytest.approx(0.4)
    assert torch.equal(errors.grad, torch.tensor([[1 / 3, 0], [1 / 3, 0], [1 / 3, 0]]))
    told = {name: value.item() for name, value in metrics.items()}
    assert told == pytest.approx(
        {
            "winner_error": 0.4,
            "loser_error": 1.1 / 3,
            "margin": (0.2 - 0.3 + 0) / 3,
            "accuracy": 0.5,
            "accuracy_count": 2,
            "gradient_factor": 1,
        },
        rel=1e-5,
    )


def test_groups_of_one_are_trained_on():
    loss, metrics = sft(torch.tensor([[0.5], [0.7]]), None, torch.tensor([[1.0], [0.0]]))
    assert loss.item() == pytest.approx(0.6)
    told = {name: value.item() for name, value in metrics.items()}  # there is no one who has lost
    assert told == pytest.approx({"winner_error": 0.6, "accuracy_count": 0, "gradient_factor": 1})


def test_the_reference_is_not_read():
    assert sft(ERRORS, torch.full_like(ERRORS, math.nan), LABELS)[0].item() == pytest.approx(0.4)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="policy_errors has shape"):
        sft(ERRORS, None, LABELS[:, :1])
