"""The cpu family of primitives: NumPy on a few threads."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from gpucnn.backends.cpu import (
    algorithms,
    augment,
    conv,
    dropout,
    elementwise,
    fused,
    gemm,
    index,
    loss,
    max_pool,
    norm,
    optimize,
    pool,
    reduce,
    softmax,
)
from gpucnn.backends.cpu.blocks import Array
from gpucnn.backends.cpu.silence import silent
from gpucnn.backends.cpu.threads import blas_single

_PRIMITIVES: dict[str, Callable[..., None]] = {
    function.__name__: silent(function)
    for function in (
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
        conv.conv2d_backward_input,
        conv.conv2d_backward_weight,
        fused.conv2d_statistics,
        fused.conv2d_max_pool,
        fused.conv2d_max_pool_backward_weight,
        max_pool.max_pool2d,
        max_pool.max_pool2d_backward,
        max_pool.max_pool2d_indices,
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
}


@lru_cache(maxsize=64)
def _inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(range(len(order)), key=order.__getitem__))


class CpuReplay:
    """A sequence of primitives over fixed arrays, BLAS held at one thread throughout."""

    launches = None

    def __init__(self, run: Callable[[], None]) -> None:
        self._run = silent(run)

    def __call__(self) -> None:
        with blas_single():
            self._run()


class CpuBackend:
    """Host memory and the NumPy primitives; implements `gpucnn.backends.Backend`."""

    primitives = _PRIMITIVES

    def empty(
        self, shape: tuple[int, ...], dtype: np.dtype[Any], order: tuple[int, ...] | None
    ) -> Array:
        """A new dense array whose axes lie in `order` (slowest first; None: C order)."""
        if order is None:
            return np.empty(shape, dtype)
        if order == algorithms.NHWC:
            n, c, h, w = shape
            return np.empty((n, h, w, c), dtype).transpose(0, 3, 1, 2)
        memory = np.empty([shape[axis] for axis in order], dtype)
        array: Array = memory.transpose(_inverse(order))
        return array

    def from_host(self, array: Array) -> Array:
        """A copy of `array`, its memory order kept where it is dense."""
        copied: Array = array.copy(order="K")
        return copied

    def write(self, array: Array, values: Array) -> None:
        """Copy values of the same shape and dtype into the array."""
        array[...] = values

    def to_host(self, array: Array) -> Array:
        """The array itself."""
        return array

    def address(self, array: Array) -> int:
        """Where the first element of the array lies."""
        return int(array.__array_interface__["data"][0])

    def capture(self, run: Callable[[], None]) -> CpuReplay:
        """Run a fixed sequence of primitives once; it can run again as it is."""
        run()
        return CpuReplay(run)

    def adopt(self, value: Any) -> Array:
        """A NumPy array over the memory of a DLPack object."""
        return np.from_dlpack(value)

    def as_strided(self, array: Array, shape: tuple[int, ...], strides: tuple[int, ...]) -> Array:
        """A view with this shape and these strides (bytes), beginning where `array` begins."""
        return as_strided(array, shape, strides)

    def synchronize(self) -> None:
        """Nothing to wait for: primitives return when their work is done."""

    def preferred_order(self, geometry: Any) -> tuple[int, ...] | None:
        """The memory order for what a convolution makes: NHWC, or CHWN where channels are few."""
        return algorithms.order(geometry)
