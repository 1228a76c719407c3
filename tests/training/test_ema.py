import pytest
import torch
from torch import nn

from palate.training.ema import Ema


def test_update_ramps_up_to_the_decay() -> None:
    weight = nn.Parameter(torch.zeros(1))
    ema = Ema({"w": weight}, 0.5)
    expected = 0.0
    for step, decay in enumerate([1 / 10, 2 / 11, 3 / 12, 4 / 13, 5 / 14, 6 / 15, 7 / 16, 8 / 17, 0.5, 0.5]):
        weight.data.fill_(step + 1.0)
        ema.update(step)
        expected = decay * expected + (1 - decay) * (step + 1.0)
        assert ema.shadow["w"].item() == pytest.approx(expected, rel=1e-6)


def test_swap_is_undone_even_by_an_error() -> None:
    weight = nn.Parameter(torch.tensor([1.0]))
    ema = Ema({"w": weight}, 0.9)
    weight.data.fill_(2.0)
    block = ema.swapped_in()
    block.__enter__()
    assert weight.item() == 1.0
    assert not block.__exit__(RuntimeError, RuntimeError(), None)
    assert (weight.item(), ema.shadow["w"].item()) == (2.0, 1.0)
