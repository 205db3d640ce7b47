"""The GPU family of primitives: CUDA kernels on a runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy.typing as npt

from gpucnn.backends.gpu import (
    augment,
    conv,
    conv_pool,
    dropout,
    elementwise,
    gemm,
    index,
    loss,
    norm,
    optimize,
    pool,
    reduce,
    softmax,
)
from gpucnn.backends.gpu.layout import is_dense
from gpucnn.backends.gpu.runtime import Array, Graph, LaunchError, Runtime

PRIMITIVES: tuple[Callable[..., None], ...] = (
    elementwise.unary,
    elementwise.binary,
    elementwise.where,
    elementwise.copy,
    elementwise.full,
    reduce.reduce,
    reduce.arg_reduce,
    index.take,
    index.take_backward,
    index.concatenate,
    index.pad,
    gemm.matmul,
    gemm.linear_backward_weight,
    conv.conv2d,
    conv.conv2d_statistics,
    conv.conv2d_backward_input,
    conv.conv2d_backward_weight,
    conv_pool.conv2d_max_pool,
    pool.max_pool2d,
    pool.max_pool2d_backward,
    pool.max_pool2d_indices,
    pool.avg_pool2d,
    pool.avg_pool2d_backward,
    pool.adaptive_avg_pool2d,
    pool.adaptive_avg_pool2d_backward,
    softmax.softmax,
    softmax.softmax_backward,
    loss.cross_entropy,
    loss.cross_entropy_backward,
    loss.cross_entropy_with_gradient,
    loss.add_scores,
    norm.batch_norm_statistics,
    norm.batch_norm,
    norm.batch_norm_backward,
    dropout.dropout,
    optimize.sgd_update,
    optimize.adam_update,
    augment.prepare_images,
)


class GpuBackend:
    """Memory and primitives of one device (see `gpucnn.backends.Backend`)."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        bind = _attributed if runtime.synchronous else partial
        self.primitives: dict[str, Callable[..., None]] = {
            primitive.__name__: bind(primitive, runtime) for primitive in PRIMITIVES
        }

    def empty(
        self, shape: Sequence[int], dtype: npt.DTypeLike, order: Sequence[int] | None = None
    ) -> Array:
        """A new dense array whose axes lie in `order` (slowest first) in memory.

        Raises MemoryError, with the bytes wanted, used and free.
        """
        return self.runtime.empty(shape, dtype, order)

    def from_host(self, array: npt.NDArray[Any]) -> Array:
        """A copy of a host array on this device, its memory order kept where it is dense."""
        return self.runtime.from_host(array)

    def write(self, array: Array, values: npt.NDArray[Any]) -> None:
        """Copy host values of the same shape and dtype into a dense array."""
        self.runtime.write(array, values)

    def to_host(self, array: Array) -> npt.NDArray[Any]:
        """A NumPy copy; waits until the array is computed."""
        if not is_dense(array.shape, array.strides, array.itemsize):
            dense = self.runtime.empty(array.shape, array.dtype)
            elementwise.copy(self.runtime, array, dense)
            array = dense
        return self.runtime.to_host(array)

    def address(self, array: Array) -> int:
        """Where the first element of the array lies."""
        return self.runtime.address(array)

    def capture(self, run: Callable[[], None]) -> Graph:
        """Run a fixed sequence of primitives once, and keep its launches as a graph."""
        return self.runtime.capture(run)

    def adopt(self, value: Any) -> Array:
        """The array over the memory of a `__cuda_array_interface__` or DLPack object."""
        return self.runtime.adopt(value)

    def as_strided(self, array: Array, shape: Sequence[int], strides: Sequence[int]) -> Array:
        """A view with these shape and strides (bytes), beginning where `array` begins."""
        return self.runtime.as_strided(array, shape, strides)

    def synchronize(self) -> None:
        """Wait until the device has done all work given to it.

        Raises LaunchError when one of the kernels failed.
        """
        self.runtime.synchronize()

    def preferred_order(self, geometry: Any) -> tuple[int, ...] | None:
        """Channels-last, for every convolution and pool: what the kernels read in runs."""
        return (0, 2, 3, 1)


def _attributed(primitive: Callable[..., None], runtime: Runtime) -> Callable[..., None]:
    """The primitive, whose launch errors name it (where each launch is waited for)."""

    def call(*arrays: Any, **attributes: Any) -> None:
        try:
            primitive(runtime, *arrays, **attributes)
        except LaunchError as error:
            shapes = [getattr(array, "shape", array) for array in arrays]
            raise LaunchError(f"{primitive.__name__} of {shapes}: {error}") from error

    return call
