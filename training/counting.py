"""FLOPs and memory of a training step, counted on the meta device: nothing is computed, nothing is allocated.

Each operation is seen once by a dispatch mode. Its FLOPs come from PyTorch's own formulas; its memory is the life of
its outputs' storages, so that the sum of the living ones is what an eager GPU's allocator would hold, saved tensors of
autograd and passing temporaries alike. What a kernel allocates for itself (cuDNN workspaces) is not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from .gpu_path import GpuPath

_ATTENTION_BACKWARD = torch.ops.aten._scaled_dot_product_efficient_attention_backward


@dataclass(frozen=True)
class Counted:
    """What a forward and a backward pass cost.

    Attributes:
        flops_forward, flops_backward: convolutions, matrix products and attention; a multiplication and an addition
            are two. Recomputation by gradient checkpointing counts, that inside fused attention does not, as is usual
            for model FLOPs.
        saved_bytes: held when the forward pass is over: what autograd keeps, parameters and inputs apart.
        peak_bytes: the most held at any moment of both passes, gradients included, parameters and inputs apart.
    """

    flops_forward: int
    flops_backward: int
    saved_bytes: int
    peak_bytes: int


def count_forward_backward(run: Callable[[], Tensor], autocast: torch.dtype | None = None) -> Counted:
    """Count `run()`, which returns a scalar on the meta device, and its backward pass.

    Args:
        run: the forward pass, on networks and inputs that live on the meta device. It leaves gradients on them.
        autocast: count the forward pass as under CUDA's autocast to this type (autocast itself ignores meta tensors).
    """
    with _Meter() as meter, GpuPath(autocast):
        loss = run()
        assert loss.is_meta, "counting is for the meta device"
        forward, saved = meter.flops, meter.live
        _backward(loss)
    return Counted(forward, meter.flops - forward, saved, meter.peak)


def count_forward(run: Callable[[], Any], autocast: torch.dtype | None = None) -> Counted:
    """Count `run()` without gradients; `saved_bytes` is then the size of what it returns."""
    with torch.no_grad(), _Meter() as meter, GpuPath(autocast):
        result = run()
        held = meter.live
    del result
    return Counted(meter.flops, 0, held, meter.peak)


def _backward(loss: Tensor) -> None:
    # `torch.autograd.backward` hands itself to the function mode, which is off while it handles a call: what gradient
    # checkpointing computes again would take another path than at first. So the engine is called directly.
    engine = torch.autograd.Variable._execution_engine
    engine.run_backward(
        (loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True
    )


class _Seen(NamedTuple):
    """What an operation did on inputs of the same form: its outputs' forms, `(size, stride, dtype)`, and its FLOPs."""

    outputs: tuple[tuple[torch.Size, tuple[int, ...], torch.dtype] | None, ...]
    single: bool
    flops: int


class _Meter(TorchDispatchMode):
    """Adds up FLOPs and the bytes of the living storages that operations have made.

    Networks repeat their blocks, and PyTorch's meta kernels are Python; so an operation that was seen with inputs of
    the same form is not run again, but answered with outputs of the same form: a third of the time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.live = self.peak = 0
        self._living: dict[int, weakref.ref[Any]] = {}
        self._seen: dict[Any, _Seen] = {}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        form = None if func.is_view else _form((args, kwargs) if kwargs else args)
        key = None if form is None else (func, form)
        if key is not None and key in self._seen:
            return self._replay(self._seen[key])
        result = func(*args, **kwargs)
        flops = _count_flops(func, args, kwargs, result)
        self.flops += flops
        outputs = tuple(result) if isinstance(result, (tuple, list)) else (result,)
        given = {id(value.untyped_storage()) for value in args if isinstance(value, Tensor)}
        fresh = [self._hold(value, given) for value in outputs if isinstance(value, Tensor)]
        if key is not None and fresh and all(fresh):
            forms = tuple(_output_form(value) for value in outputs)
            self._seen[key] = _Seen(forms, single=not isinstance(result, (tuple, list)), flops=flops)
        return result

    def _replay(self, seen: _Seen) -> Any:
        self.flops += seen.flops
        outputs = tuple(
            None if form is None else torch.empty_strided(form[0], form[1], dtype=form[2], device="meta")
            for form in seen.outputs
        )
        for value in outputs:
            if value is not None:
                self._hold(value, set())
        return outputs[0] if seen.single else outputs

    def _hold(self, value: Tensor, given: set[int]) -> bool:
        """Count a result's storage until it dies; False where it is an input's, as with views and writes in place."""
        storage = value.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in given or key in self._living:
            return False
        self._living[key] = weakref.ref(storage, lambda _: self._release(key, size))
        self.live += size
        self.peak = max(self.peak, self.live)
        return True

    def _release(self, key: int, size: int) -> None:
        del self._living[key]
        self.live -= size


def _count_flops(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> int:
    packet = func._overloadpacket
    if packet not in flop_registry:
        return 0
    flops = flop_registry[packet](*args, **kwargs, out_val=result)
    # Four products are the gradient's own; the fifth recomputes the scores that fused attention did not keep.
    return flops * 4 // 5 if packet is _ATTENTION_BACKWARD else flops


def _form(value: Any) -> Any:
    """What a result's form depends on, hashable; None where that is not known for sure."""
    if isinstance(value, Tensor):
        # Type promotion treats scalars as tensors in ways of its own.
        return (value.shape, value.stride(), value.dtype) if value.is_meta and value.dim() else None
    if isinstance(value, dict):
        value = tuple(value.items())
    if isinstance(value, (tuple, list)):
        forms = tuple(map(_form, value))
        return None if None in forms else forms
    return type(value), value


def _output_form(value: Any) -> tuple[torch.Size, tuple[int, ...], torch.dtype] | None:
    return (value.shape, value.stride(), value.dtype) if isinstance(value, Tensor) else None
