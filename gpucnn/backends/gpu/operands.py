"""Bring operands into the form the kernels want, and fill the structs they take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from gpucnn.backends.gpu import elementwise
from gpucnn.backends.gpu.kernel import Kernel
from gpucnn.backends.gpu.layout import strides_of
from gpucnn.backends.gpu.runtime import Array, Runtime

CHANNELS_LAST = (0, 2, 3, 1)
INT_LIMIT = 2**31 - 2**10
"""The kernels count rows, pixels and the elements of one image in 32 bits; a last block may reach a
little beyond."""


def real(array: Array) -> str:
    """The CUDA type of a float array's elements, for the define `real`."""
    return {"float32": "float", "float64": "double"}[array.dtype.name]


def boolean(value: bool) -> str:
    """A C++ literal, for a define."""
    return "true" if value else "false"


def steps(array: Array) -> tuple[int, ...]:
    """Strides in elements."""
    return tuple(stride // array.itemsize for stride in array.strides)


def in_order(array: Array, order: Sequence[int] | None) -> bool:
    """Whether the array is dense with its axes in `order` (slowest first; None: C order)."""
    wanted = strides_of(array.shape, array.itemsize, order)
    return 0 in array.shape or all(
        size == 1 or stride == want
        for size, stride, want in zip(array.shape, array.strides, wanted, strict=True)
    )


def dense(runtime: Runtime, array: Array, order: Sequence[int] | None = None) -> Array:
    """The array itself when it is dense in `order`, else a copy that is."""
    if in_order(array, order):
        return array
    result = runtime.empty(array.shape, array.dtype, order)
    elementwise.copy(runtime, array, result)
    return result


def dense_or_none(
    runtime: Runtime, array: Array | None, order: Sequence[int] | None = None
) -> Array | None:
    """`dense` for an optional operand."""
    return None if array is None else dense(runtime, array, order)


@contextmanager
def written_in(
    runtime: Runtime, output: Array, order: Sequence[int] | None = None
) -> Iterator[Array]:
    """An array to write the output into in `order`: itself, or one that is copied to it after."""
    if in_order(output, order):
        yield output
        return
    result = runtime.empty(output.shape, output.dtype, order)
    yield result
    elementwise.copy(runtime, result, output)


def aligned(runtime: Runtime, *arrays: Array) -> bool:
    """Whether all begin where 128-bit accesses may."""
    return all(runtime.address(array) % 16 == 0 for array in arrays)


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def power_of_two(n: int, limit: int) -> int:
    """The smallest power of two that is at least n, at most `limit` (itself one)."""
    return min(1 << max(n - 1, 0).bit_length(), limit)


def check_limit(call: str, what: str, count: int) -> None:
    """Raises ValueError when a count that the kernels keep in 32 bits is too large."""
    if count > INT_LIMIT:
        raise ValueError(f"{call}: {what} must be at most {INT_LIMIT} on the gpu, got {count}")


def struct(kernel: Kernel, name: str, values: Any, **more: Any) -> np.ndarray[Any, Any]:
    """The by-value struct `name` of a kernel, its fields taken from `more` and else from the
    attributes of `values`.
    """
    dtype = kernel.struct(name)
    result = np.zeros((), dtype)
    for field in dtype.names or ():
        result[field] = more[field] if field in more else getattr(values, field)
    return result
