"""The policy that is trained and the reference that it is held against: LoRA with the adapter off, or a frozen copy."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from ...errors import UserError
from .checkpoint import Checkpoint
from .model import quiet
from .settings import LoraSettings, ReferenceSettings


class Policy(Protocol):
    """A trainable network and its reference."""

    network: nn.Module

    def reference(self) -> contextlib.AbstractContextManager[nn.Module]:
        """Gives the frozen original policy, to be called without gradient inside the context."""
        ...

    def save(self, folder: Path) -> None:
        """Write the trained weights so that diffusers opens them without palate."""
        ...


class LoraPolicy:
    """LoRA on a frozen network; the reference is the same network with the adapter switched off.

    The adapter's weights are float32 whatever the network's dtype is: in bfloat16 the official learning rates are
    below half a unit in the last place of most weights, and nothing would move.
    """

    def __init__(self, network: Any, checkpoint: Checkpoint, settings: LoraSettings) -> None:
        family = checkpoint.family
        targets = list(settings.targets or family.lora_targets)
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha or settings.rank,  # type: ignore[arg-type]
            lora_dropout=settings.dropout,
            target_modules=targets,
            init_lora_weights="gaussian",
        )
        try:
            network.add_adapter(config)
        except ValueError as error:
            raise UserError(f"model.lora.targets: no layer of {family.network} matches {targets} ({error})") from None
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        self.network: nn.Module = network
        self._bare = network
        self._family = family
        self._layers = [module for module in network.modules() if isinstance(module, BaseTunerLayer)]

    @contextlib.contextmanager
    def reference(self) -> Iterator[nn.Module]:
        """The network without its adapter."""
        # peft's own switch also flips `requires_grad` on every weight, which disturbs DistributedDataParallel.
        for layer in self._layers:
            layer._disable_adapters = True
        try:
            yield self._bare
        finally:
            for layer in self._layers:
                layer._disable_adapters = False

    def save(self, folder: Path) -> None:
        """Write `pytorch_lora_weights.safetensors`, which `load_lora_weights(folder)` opens."""
        import diffusers
        from peft.utils import get_peft_model_state_dict

        part = self._family.network
        # Not through diffusers' own renaming: it mixes two spellings in one file, and SD3's loader then drops a part.
        weights = get_peft_model_state_dict(self._bare)
        config = self._bare.peft_config["default"].to_dict()
        # peft keeps a set, whose order changes from process to process.
        config["target_modules"] = sorted(config["target_modules"])
        getattr(diffusers, self._family.pipeline).save_lora_weights(
            folder,
            **{f"{part}_lora_layers": weights},
            **{f"{part}_lora_adapter_metadata": config},
        )


class FullPolicy:
    """Every weight is trained; the reference is a frozen copy of the weights at the start."""

    def __init__(
        self, network: Any, checkpoint: Checkpoint, settings: ReferenceSettings, reference: bool = True
    ) -> None:
        """Args: reference: whether a copy is kept; without one `reference()` must not be called."""
        home = next(network.parameters()).device
        self._home = home
        self._offload = settings.device == "cpu" and home.type != "cpu"
        self._frozen = self._copy(network, settings) if reference else None
        self._checkpoint = checkpoint
        self._bare = network.float().requires_grad_(True)
        self.network: nn.Module = self._bare

    def _copy(self, network: Any, settings: ReferenceSettings) -> nn.Module:
        frozen = copy.deepcopy(network).requires_grad_(False).eval()
        if settings.dtype != "same":
            frozen = frozen.to(getattr(torch, settings.dtype))
        return frozen.to("cpu") if self._offload else frozen

    @contextlib.contextmanager
    def reference(self) -> Iterator[nn.Module]:
        """The frozen copy, on the policy's device for as long as the context lasts."""
        assert self._frozen is not None, "this policy was made without a reference"
        if not self._offload:
            yield self._frozen
            return
        try:
            yield self._frozen.to(self._home)
        finally:
            self._frozen.to("cpu")

    def save(self, folder: Path) -> None:
        """Write a whole pipeline folder that `DiffusionPipeline.from_pretrained` opens."""
        import diffusers

        source = self._checkpoint
        with quiet():
            # One precision for all parts: transformers keeps a file's own, diffusers does not, and they must agree.
            pipeline = getattr(diffusers, source.family.pipeline).from_pretrained(
                source.path,
                torch_dtype=torch.float32,
                revision=source.revision,
                variant=source.variant,
                use_safetensors=True,
                **{source.family.network: self._bare},
            )
            pipeline.save_pretrained(folder, safe_serialization=True)
