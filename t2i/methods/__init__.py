"""The methods, one file per paper; a recipe's `method` section is one of their configs."""

from .diffusion_dpo import DiffusionDPO

MethodConfig = DiffusionDPO

__all__ = ["DiffusionDPO", "MethodConfig"]
