"""Preference objectives: pure functions of policy errors, reference errors and labels (see `contract`).

A new objective is one file with one function, and one line here. The table holds those that need no more than that;
`dspo` also takes a drift, and `safeguarded` wraps a pairwise objective.
"""

from .anchored_dpo import anchored_dpo
from .capo import capo
from .clipped_ratio import clipped_dpo
from .contract import LossAndMetrics, Objective
from .dmpo import dmpo
from .dpo import dpo
from .dspo import dspo
from .em_dpo import em_dpo
from .hinge import hinge
from .ipo import ipo
from .kto import kto
from .mapo import mapo
from .margin import margin, pair_metrics
from .rank_dpo import rank_dpo, win_rates
from .safeguard import safeguarded
from .seppo import seppo
from .sft import sft
from .soft_dpo import soft_dpo
from .temperature import effective_temperature

OBJECTIVES: dict[str, Objective] = {
    "dpo": dpo,
    "anchored_dpo": anchored_dpo,
    "ipo": ipo,
    "hinge": hinge,
    "kto": kto,
    "mapo": mapo,
    "rank_dpo": rank_dpo,
    "dmpo": dmpo,
    "capo": capo,
    "soft_dpo": soft_dpo,
    "em_dpo": em_dpo,
    "clipped_dpo": clipped_dpo,
    "seppo": seppo,
}

__all__ = [
    "OBJECTIVES",
    "LossAndMetrics",
    "Objective",
    "anchored_dpo",
    "capo",
    "clipped_dpo",
    "dmpo",
    "dpo",
    "dspo",
    "effective_temperature",
    "em_dpo",
    "hinge",
    "ipo",
    "kto",
    "mapo",
    "margin",
    "pair_metrics",
    "rank_dpo",
    "safeguarded",
    "seppo",
    "sft",
    "soft_dpo",
    "win_rates",
]
