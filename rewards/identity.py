"""What a reward is, as a digest of all that it holds: scores on record are reused where it is equal."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any


def content_digest(value: Any) -> str:
    """Sixteen hexadecimal digits of a reward's weights, settings and functions.

    Weights and arrays count with every byte, dataclasses and containers with what they hold, functions with their code,
    defaults and what they close over, not with the functions that they call; other objects with their methods and
    attributes, or with the text that they show of themselves.
    """
    state = hashlib.sha256()
    for part in _parts(value, ()):
        state.update(len(part).to_bytes(8, "little") + part)
    return state.hexdigest()[:16]


def _parts(value: Any, around: tuple[Any, ...]) -> Iterator[bytes]:
    import numpy as np
    import torch

    yield f"{type(value).__module__}.{type(value).__qualname__}".encode()
    if value is None or isinstance(value, (bool, int, float, str, bytes, Path)):
        yield str(value).encode("utf-8", "surrogateescape") if not isinstance(value, bytes) else value
        return
    if any(value is outer for outer in around):  # it holds itself
        return
    inner: Any = None
    if isinstance(value, torch.Tensor):
        yield from (str((value.dtype, tuple(value.shape))).encode(), _bytes(value))
    elif isinstance(value, np.ndarray):
        yield from (str((value.dtype, value.shape)).encode(), np.ascontiguousarray(value).tobytes())
    elif isinstance(value, torch.nn.Module):
        inner = [*value.state_dict().items(), *value.named_buffers()]
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        inner = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    elif isinstance(value, Mapping):
        inner = sorted(value.items(), key=lambda pair: str(pair[0]))
    elif isinstance(value, (list, tuple, Sequence)):
        inner = list(value)
    elif isinstance(value, functools.partial):
        inner = [value.func, value.args, value.keywords]
    elif isinstance(value, types.MethodType):
        inner = [value.__func__, value.__self__]
    elif isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        inner = [value.__code__, value.__defaults__, value.__kwdefaults__, cells]
    elif isinstance(value, types.CodeType):
        inner = [value.co_code, value.co_consts, value.co_names]
    elif type(value).__repr__ is object.__repr__:  # its text would be an address
        methods = {name: one for name, one in vars(type(value)).items() if isinstance(one, types.FunctionType)}
        inner = [methods, getattr(value, "__dict__", {})]
    else:
        yield repr(value).encode("utf-8", "surrogateescape")
    for one in inner or ():
        yield from _parts(one, (*around, value))


def _bytes(tensor: Any) -> bytes:
    import torch

    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
