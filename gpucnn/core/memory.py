"""Making, filling and copying tensors: what the graph needs before there is any arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucnn import backends
from gpucnn.core.device import Device
from gpucnn.core.dispatch import Order, Spec, dispatch
from gpucnn.core.primitive import primitive
from gpucnn.core.recording import changed
from gpucnn.core.tensor import Number, Tensor

float32 = np.dtype(np.float32)
float64 = np.dtype(np.float64)
int64 = np.dtype(np.int64)
int32 = np.dtype(np.int32)
uint8 = np.dtype(np.uint8)
bool_ = np.dtype(np.bool_)

DTYPES = (float32, float64, int64, int32, uint8, bool_)


def as_dtype(call: str, dtype: Any) -> np.dtype[Any]:
    """The NumPy dtype, if the engine has it.

    Raises:
        TypeError: it is none of float32, float64, int64, int32, uint8, bool.
    """
    try:
        result = np.dtype(object if dtype is None else dtype)  # None is float64 to NumPy
    except TypeError:
        result = np.dtype(object)
    if result not in DTYPES:
        names = ", ".join(d.name for d in DTYPES)
        raise TypeError(f"{call}: dtype must be one of {names}, got {dtype}")
    return result


def check_number(call: str, value: Number, dtype: np.dtype[Any]) -> None:
    """Refuse a Python number that an integer dtype cannot hold: it would wrap around.

    Raises:
        ValueError: the number is out of the dtype's range, infinite or NaN.
    """
    if dtype.kind not in "iu":
        return
    limits = np.iinfo(dtype)
    if not limits.min <= value <= limits.max:
        raise ValueError(f"{call}: {value} does not fit a tensor of {dtype}")


@primitive
def copy(x: Tensor, *, dtype: np.dtype[Any] | None = None, order: Order = None) -> list[Spec]:
    """y = x, of another dtype or memory order; with `out=`, into an existing (broadcast) tensor.

    Floats become integers by truncation; anything becomes bool by x != 0.
    """
    return [Spec(x.shape, dtype or x.dtype, order)]


def empty(
    shape: tuple[int, ...], dtype: np.dtype[Any], device: Device, order: Order = None
) -> Tensor:
    """A tensor of undefined values whose axes lie in `order` in memory."""
    return Tensor(backends.get(device).empty(shape, dtype, order), device)


def full(
    shape: tuple[int, ...],
    value: Number,
    dtype: np.dtype[Any],
    device: Device,
    order: Order = None,
) -> Tensor:
    """A tensor with `value` everywhere, made on its device."""
    check_number("full", value, dtype)
    specs = [Spec(shape, dtype, order)]
    return Tensor(dispatch("full", device, (), specs, {"value": value})[0], device)


def fill(target: Tensor, value: Number) -> Tensor:
    """Set every element of `target` (any view) to `value`, in place."""
    check_number("fill_", value, target.dtype)
    dispatch("full", target.device, (), (), {"value": value}, (target.data,))
    changed(target)
    return target
