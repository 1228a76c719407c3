"""What the parts of a text-to-image run cost, each counted once on the meta device."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..training.count_cache import remember
from .models.sides import latent_shape
from .workload import Workload

if TYPE_CHECKING:
    import torch
    from torch import nn

    from .models.policy import Policy

_AUTOCAST = {"bf16": "bfloat16", "fp16": "float16"}
_T5_TOKENS = 256
_policies: dict[str, Policy] = {}


@dataclass(frozen=True)
class Sizes:
    """Numbers of weights, and the bytes of the optimizer's states for those that are trained."""

    parameters: int
    trainable: int
    optimizer_bytes: int


@dataclass(frozen=True)
class Pass:
    """See `training.counting.Counted`."""

    flops_forward: int
    flops_backward: int
    saved_bytes: int
    peak_bytes: int

    @property
    def flops(self) -> int:
        """Of both directions."""
        return self.flops_forward + self.flops_backward


@dataclass(frozen=True)
class Encoders:
    """Text encoders together: their weights, and the FLOPs of one prompt."""

    parameters: int
    flops: int


def count_sizes(work: Workload) -> Sizes:
    """The network's weights, those that are trained, and the optimizer's states."""

    def count() -> dict[str, int]:
        from .models.meta import count_parameters

        network = _policy(work).network
        trainable = count_parameters(network, trainable=True)
        total = count_parameters(network) - (trainable if work.tuning == "lora" else 0)
        states = optimizer_bytes(network, work.optimizer)
        return {"parameters": total, "trainable": trainable, "optimizer_bytes": states}

    return Sizes(**remember({"what": "sizes", **work.network_key(), "optimizer": work.optimizer}, count))


def count_step(work: Workload, checkpointing: bool) -> Pass:
    """The policy's forward and backward pass over one micro-batch.

    Gradients are accumulated into tensors that are there before, so that they are not part of its bytes.
    """

    def count() -> dict[str, int]:
        import torch

        from ..training.counting import count_forward_backward

        network: Any = _policy(work).network
        for weight in network.parameters():
            weight.grad = torch.empty_like(weight) if weight.requires_grad else None
        predict = _prediction(work, network)
        try:
            if checkpointing:
                network.enable_gradient_checkpointing()
            return asdict(count_forward_backward(lambda: predict().float().square().mean(), _autocast(work)))
        finally:
            network.disable_gradient_checkpointing()

    return Pass(**remember({"what": "step", **work.pass_key(), "checkpointing": checkpointing}, count))


def count_reference(work: Workload) -> Pass:
    """The reference's forward pass over one micro-batch."""

    def count() -> dict[str, int]:
        from ..training.counting import count_forward
        from .models.meta import build_network

        if work.tuning == "lora":
            with _policy(work).reference() as network:
                return asdict(count_forward(_prediction(work, network), _autocast(work)))
        network = build_network(work.architecture, _dtype(work.copy_dtype))
        return asdict(count_forward(_prediction(work, network), _autocast(work)))

    return Pass(**remember({"what": "reference", **work.pass_key(), "copy": work.copy_dtype}, count))


def vae_bytes(work: Workload) -> int:
    """Of the autoencoder's weights."""

    def count() -> dict[str, int]:
        from .models.meta import build_vae, count_parameters

        vae = build_vae(work.architecture, _dtype(work.vae_dtype))
        return {"bytes": count_parameters(vae) * vae.dtype.itemsize}

    vae = work.architecture.vae
    return (
        0 if vae is None else remember({"what": "vae", "vae": vae.as_dict(), "dtype": work.vae_dtype}, count)["bytes"]
    )


def count_encoding(work: Workload, images: int) -> Pass:
    """The autoencoder's encoding of `images` pictures at once."""
    return _count_vae(work, "encoding", (images, 3, work.resolution, work.resolution))


def count_decoding(work: Workload, images: int) -> Pass:
    """The autoencoder's decoding of `images` pictures at once."""
    return _count_vae(work, "decoding", (images, *latent_shape(work.architecture, work.resolution)))


def _count_vae(work: Workload, what: Literal["encoding", "decoding"], shape: tuple[int, ...]) -> Pass:
    def count() -> dict[str, int]:
        import torch

        from ..training.counting import count_forward
        from .models.meta import build_vae

        vae = build_vae(work.architecture, _dtype(work.vae_dtype))
        given = torch.empty(shape, dtype=vae.dtype, device="meta")
        encode = what == "encoding"
        return asdict(count_forward(lambda: vae.encode(given).latent_dist.mean if encode else vae.decode(given).sample))

    vae = work.architecture.vae
    if vae is None:
        return Pass(0, 0, 0, 0)
    return Pass(**remember({"what": what, "vae": vae.as_dict(), "shape": shape, "dtype": work.vae_dtype}, count))


def count_text(work: Workload) -> Encoders:
    """All text encoders.

    A transformer spends two FLOPs a token on each weight that is no embedding; attention at these lengths is 1-3 %.
    """
    parts = {name: part.as_dict() for name, part in work.architecture.text_encoders.items()}

    def count() -> dict[str, int]:
        from torch import nn

        from .models.meta import build_text_encoders, count_parameters

        total, flops = 0, 0
        for encoder in build_text_encoders(work.architecture).values():
            weights = count_parameters(encoder)
            tables = {module.weight for module in encoder.modules() if isinstance(module, nn.Embedding)}
            tokens = getattr(encoder.config, "max_position_embeddings", _T5_TOKENS)
            total += weights
            flops += 2 * tokens * (weights - sum(table.numel() for table in tables))
        return {"parameters": total, "flops": flops}

    return Encoders(**remember({"what": "text", "parts": parts}, count))


def optimizer_bytes(network: nn.Module, optimizer: str) -> int:
    """Bytes of an optimizer's states for the weights that are trained, as the libraries keep them."""
    total = 0
    for weight in network.parameters():
        if not weight.requires_grad:
            continue
        count, shape = weight.numel(), weight.shape
        if optimizer == "adafactor":  # factored over the last two dimensions; no first moment
            total += 4 * (count // shape[-1] + count // shape[-2] if len(shape) > 1 else count)
        elif optimizer == "adamw8bit":  # bitsandbytes leaves tensors under 4096 elements in float32
            total += count * (2 if count >= 4096 else 8)
        else:
            total += count * 8
    return total


def _policy(work: Workload) -> Policy:
    """The network as `models.policy` makes it trainable; the last one is kept, for building it takes seconds."""
    key = json.dumps({**work.network_key(), "dtype": work.dtype}, sort_keys=True, default=list)
    if key not in _policies:
        _policies.clear()
        _policies[key] = _build_policy(work)
    return _policies[key]


def _build_policy(work: Workload) -> Policy:
    from .models.checkpoint import Checkpoint
    from .models.meta import build_network, family_of
    from .models.policy import FullPolicy, LoraPolicy, LoraSettings, ReferenceSettings

    checkpoint = Checkpoint(work.architecture.name, family_of(work.architecture), index={})
    network = build_network(work.architecture, _dtype(work.dtype))
    if work.tuning == "lora":
        return LoraPolicy(
            network, checkpoint, LoraSettings.model_validate({"rank": work.rank, "targets": work.targets})
        )
    return FullPolicy(network, checkpoint, ReferenceSettings.model_validate({}))


def _prediction(work: Workload, network: nn.Module) -> Callable[[], torch.Tensor]:
    from .models.meta import family_of, make_inputs

    dtype = next(network.parameters()).dtype
    inputs = make_inputs(work.architecture, work.images, work.resolution, dtype)
    predict = family_of(work.architecture).predict
    return lambda: predict(network, *inputs)


def _dtype(name: str) -> torch.dtype:
    import torch

    return getattr(torch, name)


def _autocast(work: Workload) -> torch.dtype | None:
    return _dtype(_AUTOCAST[work.precision]) if work.precision in _AUTOCAST else None
