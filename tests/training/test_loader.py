from dataclasses import dataclass
from typing import NamedTuple

import torch

from palate.training.loader import to_device


class Pair(NamedTuple):
    a: torch.Tensor
    b: int


@dataclass(frozen=True)
class Conditions:
    text: torch.Tensor
    name: str


def test_every_tensor_is_moved_and_nothing_else_changes() -> None:
    tensor = torch.ones(2)
    batch = {"x": [tensor, 3], "pair": Pair(tensor, 4), "c": Conditions(tensor, "n"), "t": (tensor, None)}
    moved = to_device(batch, torch.device("meta"))
    found = (moved["x"][0], moved["pair"].a, moved["c"].text, moved["t"][0])
    assert {value.device.type for value in found} == {"meta"}
    assert (moved["x"][1], moved["pair"].b, moved["c"].name, moved["t"][1]) == (3, 4, "n", None)
    assert isinstance(moved["pair"], Pair)
    assert isinstance(moved["c"], Conditions)
