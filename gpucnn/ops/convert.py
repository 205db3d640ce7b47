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


def to(input: Tensor, *target: Any, **options: Any) -> Tensor:
    """The tensor on another device and of another dtype: `x.to("cuda")`, `x.to(gpucnn.float64)`.

    Raises:
        TypeError: a target that is neither a device nor a dtype.
        ValueError: an unknown device.
        RuntimeError: the device is not available here; the text says why.
    """
    device, dtype = options.pop("device", None), options.pop("dtype", None)
    if options:
        raise TypeError(f"to: unknown argument {next(iter(options))!r}")
    for value in target:
        if isinstance(value, Tensor):
            device, dtype = value.device, value.dtype
        elif isinstance(value, (str, Device)):
            device = value
        else:
            dtype = value
    if dtype is not None:
        input = cast(input, as_dtype("to", dtype))
    if device is not None and Device(device) is not input.device:
        input = Transfer.apply(input, Device(device))
    return input
