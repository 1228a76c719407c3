"""Diffusion-SDPO's safeguard, on every method that has the setting: the loser's slope falls, and nothing else."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor

from palate.t2i.method import Method
from palate.t2i.methods import MethodConfig
from palate.t2i.methods.settings import MethodSettings

GUARDED = [one for one in get_args(MethodConfig) if "safeguard" in one.model_fields]


def slope(method: Method) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The loss, its gradient by the errors `[2, 2]`, and the metrics."""
    errors = torch.tensor([[0.50, 0.56], [0.61, 0.52]], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([[0.53, 0.55], [0.60, 0.54]], dtype=torch.float64)
    extras = {
        "drift": torch.tensor([[0.02, 0.03], [0.01, 0.04]], dtype=torch.float64),
        "progress": torch.tensor([0.3, 0.6], dtype=torch.float64),
        "overlap": torch.tensor([[1.0, 3.0], [2.0, 3.0]], dtype=torch.float64),  # with itself, with the loser's
    }
    labels = torch.tensor([[0.9, 0.2], [0.8, 0.3]], dtype=torch.float64)
    loss, metrics = method.objective(errors, reference, labels, **{name: extras[name] for name in method.reads})
    return loss.detach(), torch.autograd.grad(loss, errors)[0], metrics


@pytest.mark.parametrize("config", GUARDED, ids=lambda one: one.model_fields["name"].default)
def test_the_safeguard_holds_back_the_loser_alone(config: type[MethodSettings]):
    changes = {"beta": 5.0}  # far from where a sigmoid is flat
    plain = config.model_validate(changes).build(256)
    guarded = config.model_validate({**changes, "safeguard": 0.6}).build(256)
    assert guarded.reads == plain.reads | {"overlap"}
    assert guarded.over_batch  # one number for the micro-batch
    loss, gradient, metrics = slope(plain)
    same, less, told = slope(guarded)
    assert same == loss
    assert told["safeguard"].item() == pytest.approx((1 - 0.6) * 3 / 6)
    torch.testing.assert_close(less[:, 0], gradient[:, 0])
    torch.testing.assert_close(less[:, 1], 0.2 * gradient[:, 1])
    assert (gradient[:, 1] != 0).all()
    assert "safeguard" not in metrics
