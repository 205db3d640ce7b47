"""Tensors from data, from other libraries, from constants and from random numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpucnn import backends, random
from gpucnn.core import memory
from gpucnn.core.device import CPU, Device, resolve
from gpucnn.core.dispatch import Order
from gpucnn.core.memory import as_dtype, float32
from gpucnn.core.recording import unrepeatable
from gpucnn.core.tensor import Number, Tensor
from gpucnn.ops.view import sizes


def tensor(
    data: Any,
    dtype: Any = None,
    device: str | Device | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """A new tensor with a copy of `data`.

    Args:
        data: a number, nested lists, a NumPy or CuPy array, a Tensor, or anything that NumPy can
            read. Python floats become float32, Python ints int64; arrays keep their dtype.
        dtype: float32, float64, int64, int32, uint8 or bool.
        device: where to put it; the default device when None (a CuPy array stays on its GPU).
        requires_grad: whether operations on it are recorded.

    Raises:
        TypeError: the data's dtype is not one of these.
        ValueError: nested lists of unequal length, or an unknown device.
    """
    if isinstance(data, Tensor):
        result = data.detach().to(resolve(device) if device is not None else data.device)
        result = memory.copy(
            result, dtype=as_dtype("tensor", dtype or data.dtype), order=data.order
        )
    elif hasattr(data, "__cuda_array_interface__"):
        source = from_cuda(data)
        result = tensor(source, dtype, device)
    else:
        unrepeatable("a tensor is made on the host (from numbers, NumPy arrays, randn, arange)")
        host = _to_numpy(data, dtype)
        where = resolve(device)
        array = host.copy(order="K") if where is CPU else backends.get(where).from_host(host)
        result = Tensor(array, where)
    return result.requires_grad_(requires_grad)


def _to_numpy(data: Any, dtype: Any) -> np.ndarray[Any, Any]:
    try:
        host = np.asarray(data)
    except ValueError as error:
        raise ValueError(f"tensor: data is not rectangular ({error})") from None
    if host.dtype.kind not in "fiub":
        raise TypeError(f"tensor: data of type {host.dtype} is not numeric")
    if dtype is not None:
        wanted = as_dtype("tensor", dtype)
    elif host.dtype.kind == "f" and not hasattr(data, "dtype") and not _holds_arrays(data):
        wanted = float32
    else:
        wanted = as_dtype("tensor", host.dtype.newbyteorder("="))
    return host.astype(wanted, copy=False)


def _holds_arrays(data: Any) -> bool:
    while isinstance(data, (list, tuple)) and data:
        data = data[0]
    return hasattr(data, "dtype")


def as_tensor(data: Any, dtype: Any = None, device: str | Device | None = None) -> Tensor:
    """`data` as a tensor, without a copy where dtype and device allow it."""
    if isinstance(data, Tensor):
        targets = [t for t in (dtype, device) if t is not None]
        for target in targets:
            data = data.to(target)
        return data
    where = resolve(device)
    if isinstance(data, np.ndarray) and where is CPU and data.dtype.isnative:
        if as_dtype("as_tensor", dtype or data.dtype) == data.dtype:
            return Tensor(data)
    return tensor(data, dtype, where)


def from_numpy(array: np.ndarray[Any, Any]) -> Tensor:
    """A cpu tensor over the same memory as a NumPy array of one of the engine's dtypes."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"from_numpy: expected a numpy.ndarray, got {type(array).__name__}")
    as_dtype("from_numpy", array.dtype)
    return Tensor(array)


def from_cuda(array: Any) -> Tensor:
    """A tensor over the memory of any object with `__cuda_array_interface__`, not copied."""
    return _adopt("from_cuda", array, Device("cuda"))


def from_dlpack(source: Any) -> Tensor:
    """A tensor over the memory of another library's tensor (DLPack), not copied.

    Raises:
        RuntimeError: it is on a kind of device that this engine does not have.
    """
    kind, index = source.__dlpack_device__()
    if kind in (2, 13):  # kDLCUDA, kDLCUDAManaged
        return _adopt("from_dlpack", source, Device("cuda", index))
    if kind not in (1, 3):  # kDLCPU, kDLCUDAHost
        raise RuntimeError(f"from_dlpack: device type {kind} is neither a cpu nor a CUDA device")
    return _adopt("from_dlpack", source, CPU)


def _adopt(call: str, source: Any, device: Device) -> Tensor:
    array = backends.get(device).adopt(source)
    as_dtype(call, array.dtype)
    # An interface without a device number leaves it to CuPy to find out which GPU it is.
    return Tensor(array, device if device is CPU else Device("cuda", int(array.device.id)))


def _shape(call: str, given: tuple[Any, ...]) -> tuple[int, ...]:
    shape = sizes(call, given)
    if any(s < 0 for s in shape):
        raise ValueError(f"{call}: sizes must not be negative, got {shape}")
    return shape


def empty(
    *size: Any,
    dtype: Any = None,
    device: str | Device | None = None,
    requires_grad: bool = False,
    order: Order = None,
) -> Tensor:
    """A tensor of undefined values. `order` lists the axes from slowest to fastest in memory."""
    shape = _shape("empty", size)
    if order is not None and sorted(order) != list(range(len(shape))):
        raise ValueError(f"empty: order {order} is not a permutation of the axes of {shape}")
    chosen = as_dtype("empty", dtype or float32)
    result = memory.empty(shape, chosen, resolve(device), order)
    return result.requires_grad_(requires_grad)


def full(
    size: Any,
    fill_value: Number,
    dtype: Any = None,
    device: str | Device | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """A tensor filled with one value; its dtype follows the value when None, as in PyTorch."""
    shape = _shape("full", (size,) if isinstance(size, (tuple, list)) else ((size,),))
    if dtype is None:
        kinds = {bool: memory.bool_, int: memory.int64}
        dtype = kinds.get(type(fill_value), float32)
    result = memory.full(shape, fill_value, as_dtype("full", dtype), resolve(device))
    return result.requires_grad_(requires_grad)


def zeros(
    *size: Any,
    dtype: Any = None,
    device: str | Device | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """A tensor of zeros: `zeros(2, 3)` or `zeros((2, 3))`; float32 when `dtype` is None."""
    return full(_shape("zeros", size), 0, dtype or float32, device, requires_grad)


def ones(
    *size: Any,
    dtype: Any = None,
    device: str | Device | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """A tensor of ones."""
    return full(_shape("ones", size), 1, dtype or float32, device, requires_grad)


def _like(call: str, value: int) -> Any:
    def like(
        input: Tensor,
        dtype: Any = None,
        device: str | Device | None = None,
        requires_grad: bool = False,
    ) -> Tensor:
        chosen = as_dtype(call, dtype or input.dtype)
        where = input.device if device is None else Device(device)
        result = memory.full(input.shape, value, chosen, where, input.order)
        return result.requires_grad_(requires_grad)

    like.__name__ = call
    like.__doc__ = f"{call[:-5]} of the shape, dtype, device and memory order of another tensor."
    return like


zeros_like = _like("zeros_like", 0)
ones_like = _like("ones_like", 1)


def arange(
    start: float,
    end: float | None = None,
    step: float = 1,
    dtype: Any = None,
    device: str | Device | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Values from `start` (0 if only one is given) up to but not including `end`.

    Raises:
        ValueError: the step is 0 or leads away from the end.
    """
    if end is None:
        start, end = 0, start
    if step == 0 or (end - start) * step < 0:
        raise ValueError(f"arange: step {step} does not lead from {start} to {end}")
    whole = all(isinstance(v, int) for v in (start, end, step))
    chosen = as_dtype("arange", dtype or (memory.int64 if whole else float32))
    # start + i step, not np.arange, whose step is rounded.
    count = -((start - end) // step) if whole else math.ceil((end - start) / step)
    values = start + np.arange(int(count)) * step
    return tensor(values.astype(chosen), device=device, requires_grad=requires_grad)


def rand(
    *size: Any,
    dtype: Any = None,
    device: str | Device | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Uniform numbers in [0, 1), drawn on the host: the same on every device."""
    values = random.host_generator().random(_shape("rand", size))
    return tensor(values, as_dtype("rand", dtype or float32), device, requires_grad)


def randn(
    *size: Any,
    dtype: Any = None,
    device: str | Device | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Standard normal numbers, drawn on the host: the same on every device."""
    values = random.host_generator().standard_normal(_shape("randn", size))
    return tensor(values, as_dtype("randn", dtype or float32), device, requires_grad)


def randint(
    low: Any = 0,
    high: Any = None,
    size: Any = None,
    dtype: Any = None,
    device: str | Device | None = None,
) -> Tensor:
    """Integers in [low, high), drawn on the host: the same on every device.

    `randint(high, size)` and `randint(low, high, size)`, as in PyTorch.
    """
    if size is None:
        low, high, size = 0, low, high
    if high <= low:
        raise ValueError(f"randint: high must exceed low, got low {low}, high {high}")
    values = random.host_generator().integers(low, high, _shape("randint", (size,)))
    return tensor(values, as_dtype("randint", dtype or memory.int64), device)
