"""The same values elsewhere: in another dtype, another memory order, on another device."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucnn import backends
from gpucnn.core.autograd import Function
from gpucnn.core.device import Device
from gpucnn.core.dispatch import Order
from gpucnn.core.memory import as_dtype, copy
from gpucnn.core.tensor import Tensor


class Cast(Function):
    """Another dtype."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: np.dtype[Any]) -> Tensor:
        ctx.dtype = x.dtype
        return copy(x, dtype=dtype, order=x.order)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        return copy(dy, dtype=ctx.dtype, order=dy.order), None


class Copy(Function):
    """The same values in new memory, in a given order of axes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Order) -> Tensor:
        return copy(x, order=order)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        return dy, None


class Transfer(Function):
    """The same values on another device."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, device: Device) -> Tensor:
        ctx.device = x.device
        return _transfer(x, device)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        return _transfer(dy, ctx.device), None


def _transfer(x: Tensor, device: Device) -> Tensor:
    return Tensor(backends.get(device).from_host(x.detach().numpy()), device)


def cast(x: Tensor, dtype: np.dtype[Any]) -> Tensor:
    """x in another dtype, differentiable between floats; x itself where it has that dtype."""
    return x if x.dtype == dtype else Cast.apply(x, dtype)


def contiguous(input: Tensor) -> Tensor:
    """The tensor in C order: itself where it is so already."""
    return input if input.data.flags.c_contiguous else Copy.apply(input, None)


def clone(input: Tensor) -> Tensor:
    """The same values in memory of their own, in the same order."""
    return Copy.apply(input, input.order)


def to(
    input: Tensor,
    *target: Any,
    device: Any = None,
    dtype: Any = None,
    non_blocking: bool = False,
    copy: bool = False,
) -> Tensor:
    """The tensor on another device and of another dtype: `x.to("cuda")`, `x.to(gpucnn.float64)`.

    Args:
        target: a device, a dtype, both in this order, or a tensor that has both.
        non_blocking: accepted for PyTorch's sake; copies from and to the host wait.
        copy: return a copy even where nothing changes.

    Raises:
        TypeError: a target that is neither a device nor a dtype.
        ValueError: an unknown device.
        RuntimeError: the device is not available here; the text says why.
    """
    result = input
    for value in target:
        if isinstance(value, Tensor):
            device, dtype = value.device, value.dtype
        elif isinstance(value, (str, Device)):
            device = value
        else:
            dtype = value
    if dtype is not None:
        result = cast(result, as_dtype("to", dtype))
    if device is not None and Device(device) is not result.device:
        result = Transfer.apply(result, Device(device))
    return clone(result) if copy and result is input else result


def cuda(input: Tensor, device: Any = None, non_blocking: bool = False) -> Tensor:
    """The tensor on a GPU: the first, or that of a number, a name or a device."""
    if device is None or isinstance(device, int):
        device = Device("cuda", device)
    return to(input, device=device)
