"""Meta tensors on a GPU's path: fused attention and CUDA's autocast, neither of which PyTorch gives to meta tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_ATTENTION = torch.ops.aten._scaled_dot_product_efficient_attention

# What CUDA's autocast runs in the lower precision and what it keeps in float32, of the operations that networks use
# (PyTorch's autocast operator reference). All others take their inputs as they come.
_CONVOLUTIONS: tuple[Callable[..., Any], ...] = (F.conv1d, F.conv2d, F.conv3d, F.conv_transpose2d)
_PRODUCTS = (F.linear, torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.baddbmm, torch.einsum)
_PRODUCT_METHODS = (Tensor.matmul, Tensor.__matmul__, Tensor.mm, Tensor.bmm)
_LOW = frozenset({*_CONVOLUTIONS, *_PRODUCTS, *_PRODUCT_METHODS})

_NORMS: tuple[Callable[..., Any], ...] = (F.layer_norm, F.group_norm, F.rms_norm, F.softmax, F.log_softmax, F.mse_loss)
_POINTWISE = (torch.softmax, torch.pow, torch.square, torch.rsqrt, torch.exp, torch.log, torch.sum)
_POINTWISE_METHODS = (Tensor.softmax, Tensor.pow, Tensor.square, Tensor.rsqrt, Tensor.exp, Tensor.log, Tensor.sum)
_FULL = frozenset({*_NORMS, *_POINTWISE, *_POINTWISE_METHODS, Tensor.__pow__})


class GpuPath(TorchFunctionMode):
    """Within it, attention keeps no [n, n] scores, and operations take the types that autocast would give them.

    Args:
        autocast: the lower precision; None for no autocast.
    """

    def __init__(self, autocast: torch.dtype | None) -> None:
        super().__init__()
        self._low = autocast

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is F.scaled_dot_product_attention:
            return self._attention(*args, **kwargs)
        if self._low is not None and func in _LOW:
            return func(*_cast(args, self._low), **_cast(kwargs, self._low))
        if self._low is not None and func in _FULL:
            return func(*_cast(args, torch.float32), **_cast(kwargs, torch.float32))
        return func(*args, **kwargs)

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if self._low is not None:
            query, key, value = query.to(self._low), key.to(self._low), value.to(self._low)
        if enable_gqa:
            groups = query.shape[-3] // key.shape[-3]
            key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
        kept = torch.is_grad_enabled()  # the log-sum-exp that the backward pass reads
        return _ATTENTION(query, key, value, attn_mask, kept, dropout_p, is_causal, scale=scale)[0]


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """`value` with every floating-point tensor but float64 in `dtype`, in the containers that calls use."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() and value.dtype != torch.float64 else value
    if isinstance(value, dict):
        return {name: _cast(inner, dtype) for name, inner in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_cast(inner, dtype) for inner in value)
    return value
