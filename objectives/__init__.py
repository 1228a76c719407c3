"""Preference objectives: pure functions of policy errors, reference errors and labels (see `contract`).

A new objective is one file with one function, and one line here.
"""

from .anchored_dpo import anchored_dpo
from .contract import LossAndMetrics, Objective
from .dpo import dpo
from .hinge import hinge
from .ipo import ipo
from .kto import kto
from .margin import margin, pair_metrics
from .temperature import effective_temperature

OBJECTIVES: dict[str, Objective] = {
    "dpo": dpo,
    "anchored_dpo": anchored_dpo,
    "ipo": ipo,
    "hinge": hinge,
    "kto": kto,
}

__all__ = [
    "OBJECTIVES",
    "LossAndMetrics",
    "Objective",
    "anchored_dpo",
    "dpo",
    "effective_temperature",
    "hinge",
    "ipo",
    "kto",
    "margin",
    "pair_metrics",
]
