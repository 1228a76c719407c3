import sys

import pytest
import torch
from torch import nn

from palate.errors import UserError
from palate.training.config import TrainingConfig
from palate.training.optimizers import learning_rate, make_optimizer


def config(**values: object) -> TrainingConfig:
    return TrainingConfig.model_validate({"steps": 10, "learning_rate": 1.0, "trackers": [], **values})


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        ("linear", [0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
        ("cosine", [0.5, 1, 1, 0.9619398, 0.8535534, 0.6913417, 0.5, 0.3086583, 0.1464466, 0.0380602]),
    ],
)
def test_schedules(schedule: str, expected: list[float]) -> None:
    chosen = config(schedule=schedule, warmup_steps=2)
    assert [learning_rate(chosen, step) for step in range(10)] == pytest.approx(expected, abs=1e-7)


def test_warmup_longer_than_the_run() -> None:
    assert learning_rate(config(schedule="linear", warmup_steps=100), 9) == pytest.approx(0.1)


def test_adamw_first_step_is_the_learning_rate() -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = make_optimizer([weight], config(learning_rate=0.1, optimizer={"weight_decay": 0.5}))
    weight.grad = torch.tensor([1.0, -2.0, 3.0])
    optimizer.step()
    # Decoupled decay: 1 - 0.1 * 0.5 = 0.95, then sign(g) * 0.1.
    assert weight.tolist() == pytest.approx([0.85, 1.05, 0.85], abs=1e-6)


def test_adafactor_uses_the_rate_as_given() -> None:
    weight = nn.Parameter(torch.full((4, 4), 100.0))
    chosen = config(learning_rate=0.1, optimizer={"name": "adafactor", "weight_decay": 0.0})
    optimizer = make_optimizer([weight], chosen)
    weight.grad = torch.ones(4, 4)
    optimizer.step()
    # The first update has root mean square 1, whatever the weight's size: torch.optim.Adafactor would move it by 10.
    assert weight.mean().item() == pytest.approx(99.9, abs=1e-3)


def test_missing_bitsandbytes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(UserError, match=r"bitsandbytes.*palate\[cuda\]"):
        make_optimizer([nn.Parameter(torch.ones(1))], config(optimizer={"name": "adamw8bit"}))
