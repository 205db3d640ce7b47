"""Batch normalisation over (N, C, *spatial), in whatever memory order the tensors lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gpucnn.backends.gpu import kernel
from gpucnn.backends.gpu.kernel import Kernel, strided
from gpucnn.backends.gpu.layout import axis_order
from gpucnn.backends.gpu.operands import (
    ceil_div,
    check_limit,
    dense,
    dense_or_none,
    power_of_two,
    real,
    steps,
    struct,
)
from gpucnn.backends.gpu.runtime import Array, Runtime

THREADS = 256
ROWS_PER_THREAD = 16
BLOCKS = 1024
"""Blocks of one launch, about. A constant: the order of the sums depends on the shape alone."""


def batch_norm_statistics(runtime: Runtime, x: Array, mean: Array, variance: Array) -> None:
    """mean (C,) and biased variance (C,) of x (N, C, *spatial) over all axes but C."""
    order = axis_order(x.shape, x.strides)
    x = dense(runtime, x, order)
    plan = _Plan.of("batch_norm_statistics", x, order)
    partial = runtime.empty((3, plan.parts, plan.channels), x.dtype)
    function = _kernel("batch_norm_moments", x)
    runtime.launch(function, plan.grid, plan.block, x, partial, plan.layout(function))
    grid, block = _finish_shape(plan)
    runtime.launch(
        _kernel("batch_norm_moments_finish", x), grid, block,
        x, partial, mean, variance, plan.channels, plan.inner, plan.parts,
    )  # fmt: skip


def batch_norm(
    runtime: Runtime,
    x: Array,
    mean: Array,
    variance: Array,
    weight: Array | None,
    bias: Array | None,
    y: Array,
    *,
    eps: float,
) -> None:
    """y = (x - mean) / sqrt(variance + eps) * weight + bias."""
    order = axis_order(y.shape, y.strides)
    plan = _Plan.of("batch_norm", y, order)
    function = _kernel("batch_norm_forward", y)
    runtime.launch(
        function, plan.grid, plan.block,
        dense(runtime, x, order), dense(runtime, mean), dense(runtime, variance),
        dense_or_none(runtime, weight), dense_or_none(runtime, bias), y,
        plan.layout(function), eps,
    )  # fmt: skip


def batch_norm_backward(
    runtime: Runtime,
    dy: Array,
    x: Array,
    mean: Array,
    variance: Array,
    weight: Array | None,
    dx: Array,
    dweight: Array,
    dbias: Array,
    *,
    eps: float,
    training: bool,
) -> None:
    """dx, dweight (C,) and dbias (C,) of `batch_norm`; `training`: the statistics were x's own."""
    order = axis_order(dx.shape, dx.strides)
    plan = _Plan.of("batch_norm_backward", dx, order)
    dy, x = dense(runtime, dy, order), dense(runtime, x, order)
    mean, variance = dense(runtime, mean), dense(runtime, variance)
    partial = runtime.empty((2, plan.parts, plan.channels), x.dtype)
    function = _kernel("batch_norm_backward_sums", x)
    runtime.launch(
        function, plan.grid, plan.block,
        dy, x, mean, variance, partial, plan.layout(function), eps,
    )  # fmt: skip
    grid, block = _finish_shape(plan)
    runtime.launch(
        _kernel("batch_norm_backward_finish", x), grid, block,
        partial, dweight, dbias, plan.channels, plan.parts,
    )  # fmt: skip
    function = _kernel("batch_norm_backward", x)
    runtime.launch(
        function, plan.grid, plan.block,
        dy, x, mean, variance, dense_or_none(runtime, weight), dweight, dbias, dx,
        plan.layout(function), eps, bool(training),
    )  # fmt: skip


def batch_norm_update(
    runtime: Runtime,
    running_mean: Array,
    running_variance: Array,
    mean: Array,
    variance: Array,
    *,
    momentum: float,
    count: int,
) -> None:
    """running = (1 - momentum) * running + momentum * batch, in place on the first two.

    The batch's variance is made unbiased: times count / (count - 1).
    """
    channels = mean.shape[0]
    runtime.launch(
        _kernel("batch_norm_update_running", mean),
        (ceil_div(channels, THREADS),),
        (THREADS,),
        strided(running_mean), strided(running_variance),
        dense(runtime, mean), dense(runtime, variance),
        channels, steps(running_mean)[0], steps(running_variance)[0],
        1 - momentum, momentum, count / (count - 1) if count > 1 else math.inf,
    )  # fmt: skip


@dataclass(frozen=True)
class _Plan:
    """A dense tensor as (outer, channels, inner) in memory, and the blocks that share its rows."""

    channels: int
    inner: int
    rows: int
    rows_per_block: int
    parts: int
    grid: tuple[int, int]
    block: tuple[int, int]

    @classmethod
    def of(cls, call: str, array: Array, order: Sequence[int]) -> _Plan:
        """Raises ValueError when a channel has more elements than the kernels count."""
        sizes = [array.shape[axis] for axis in order]
        place = list(order).index(1)
        channels, inner = sizes[place], math.prod(sizes[place + 1 :])
        rows = math.prod(sizes[:place]) * inner
        check_limit(call, "the number of elements of one channel", rows)
        # Neighbouring threads take neighbours in memory: channels where they lie last, else rows.
        lanes = power_of_two(channels, 32) if inner == 1 else 1
        lines = THREADS // lanes
        columns = ceil_div(channels, lanes)
        parts = min(ceil_div(rows, lines * ROWS_PER_THREAD), ceil_div(BLOCKS, max(columns, 1)))
        rows_per_block = max(ceil_div(rows, max(parts, 1)), 1)
        parts = max(ceil_div(rows, rows_per_block), 1)
        return cls(channels, inner, rows, rows_per_block, parts, (columns, parts), (lanes, lines))

    def layout(self, function: Kernel) -> Any:
        return struct(function, "Layout", self)


def _kernel(entry: str, array: Array) -> Kernel:
    return kernel.get("batch_norm.cu", entry, real=real(array))


def _finish_shape(plan: _Plan) -> tuple[tuple[int], tuple[int, int]]:
    """Grid and block of the second stage of a reduction, from (..., parts, C) to (C,)."""
    lanes = power_of_two(plan.channels, 32)
    return (ceil_div(plan.channels, lanes),), (lanes, THREADS // lanes)
