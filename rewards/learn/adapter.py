"""Low-rank adaptation of a network's linear layers, and the network that it amounts to."""

from __future__ import annotations

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from .recipe import Lora


def add_adapter(network: nn.Module, settings: Lora, seed: int) -> None:
    """Put LoRA on every linear layer of `network`; it alone is trainable then, and changes no output yet.

    Args:
        seed: draws its weights.
    """
    names = {name.rpartition(".")[2] for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha or settings.rank,  # type: ignore[arg-type]
        lora_dropout=settings.dropout,
        target_modules=sorted(names),
    )
    with torch.random.fork_rng(devices=[]):  # peft takes no generator
        torch.manual_seed(seed)
        inject_adapter_in_model(config, network)


@torch.no_grad()
def merged(network: nn.Module) -> dict[str, Tensor]:
    """The state dict of a network without its adapters, their products added to the weights in float32, on the CPU."""
    state = {
        name.replace(".base_layer.", "."): tensor.cpu()
        for name, tensor in network.state_dict().items()
        if ".lora_" not in name
    }
    for name, module in network.named_modules():
        if isinstance(module, LoraLayer):
            weight: Tensor = module.get_base_layer().weight  # type: ignore[assignment]
            delta: Tensor = module.get_delta_weight("default")  # type: ignore[operator]
            state[f"{name}.weight"] = (weight.float() + delta.float()).cpu()
    return state
