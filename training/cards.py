"""Graphics cards: how fast and how large, for estimates before a run and the utilisation during one."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import UserError

if TYPE_CHECKING:
    import torch

ATTAINABLE = 0.8
"""Share of the data sheet's peak that large bf16 matrix products reach: 790 of 989 TFLOP/s, measured on an H200."""

EXPECTED = (0.25, 0.5)
"""Share of the data sheet's peak that a whole training step may be expected to reach: eager, and compiled with large
micro-batches. An assumption, not a measurement; the log's `mfu` tells what a run really reaches."""


@dataclass(frozen=True)
class Card:
    """A card.

    Attributes:
        name: as on the command line.
        device: a part of the name that the driver reports.
        bf16: dense bf16 tensor-core peak with float32 accumulation, FLOP/s, from the maker's data sheet.
        memory_gib: what the driver reports as total memory, GiB, rounded down.
    """

    name: str
    device: str
    bf16: float
    memory_gib: float

    def peak(self, bits: int) -> float:
        """The peak for operands of `bits` bits, FLOP/s; 32 stands for TF32, half of bf16 on all of these."""
        return self.bf16 / 2 if bits == 32 else self.bf16


# A card whose device name is part of another's comes after it.
_ALL = (
    Card("b200", "B200", 2250e12, 178),
    Card("h200", "H200", 989e12, 139),
    Card("h100-pcie", "H100 PCIe", 756e12, 79),
    Card("h100", "H100", 989e12, 79),
    Card("a100-40", "-40GB", 312e12, 39),
    Card("a100-80", "A100", 312e12, 79),
    Card("l40s", "L40S", 362e12, 44),
    Card("l40", "L40", 181e12, 44),
    Card("l4", "L4", 121e12, 22),
    Card("a10g", "A10G", 70e12, 22),
    Card("a10", "A10", 125e12, 22),
    Card("rtx-6000-ada", "RTX 6000 Ada", 364e12, 47),
    Card("rtx-a6000", "RTX A6000", 155e12, 47),
    Card("rtx-5090", "RTX 5090", 209.5e12, 31),
    Card("rtx-4090", "RTX 4090", 165.2e12, 23),
    Card("rtx-4080", "RTX 4080", 97.5e12, 15),
    Card("rtx-3090", "RTX 3090", 71e12, 23),
)
CARDS: dict[str, Card] = {card.name: card for card in _ALL}
"""By name."""


_SPELLINGS: tuple[Callable[[Card], str], ...] = (
    lambda card: card.name,
    lambda card: card.name.removeprefix("rtx-"),
    lambda card: card.name.split("-")[0],  # `a100` is the larger one
)


def find_card(name: str) -> Card:
    """The card of a name such as `h200`, `RTX 4090` or `4090`.

    Raises UserError: the card is not in the table.
    """
    wanted = name.lower().strip().replace(" ", "-").removeprefix("nvidia-")
    for name_of in _SPELLINGS:
        for card in reversed(_ALL):
            if wanted == name_of(card):
                return card
    raise UserError(f"--card {name}: unknown; palate knows {', '.join(CARDS)}")


def card_of(device_name: str) -> Card | None:
    """The card of the name that a driver reports; None when it is not in the table."""
    return next((card for card in _ALL if card.device in device_name), None)


def device_capacity(device: torch.device) -> int | None:
    """Bytes that this process may hold on a device: what is free, and what it holds already; None: not known."""
    import torch

    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    if device.type == "cpu" and "SC_AVPHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None
