"""The methods, one file per paper; a recipe's `method` section is one of their configs."""

from .capo import CaPO
from .d3po import D3PO
from .dcpo import DCPO
from .diffusion_dpo import DiffusionDPO
from .diffusion_kto import DiffusionKTO
from .dmpo import DMPO
from .dspo import DSPO
from .em_dpo import EmDPO
from .inpo import InPO
from .mapo import MaPO
from .pnapo import PNAPO
from .rank_dpo import RankDPO
from .seppo import SePPO
from .sft import SFT
from .spo import SPO
from .tpo import TPO

MethodConfig = (
    CaPO | DCPO | DiffusionDPO | DiffusionKTO | DMPO | DSPO | EmDPO | InPO | MaPO | PNAPO | RankDPO | SePPO | SFT | TPO
)
OnlineMethodConfig = SPO | D3PO
"""Those that learn from their own rollouts, of an `OnlineRecipe`."""

__all__ = [
    "D3PO",
    "DCPO",
    "DMPO",
    "DSPO",
    "PNAPO",
    "SFT",
    "SPO",
    "TPO",
    "CaPO",
    "DiffusionDPO",
    "DiffusionKTO",
    "EmDPO",
    "InPO",
    "MaPO",
    "MethodConfig",
    "OnlineMethodConfig",
    "RankDPO",
    "SePPO",
]
