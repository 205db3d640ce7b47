"""Batch normalisation over (N, C, *spatial), in whatever memory order the tensors lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gpucnn.backends.gpu import elementwise, kernel
from gpucnn.backends.gpu.kernel import Kernel, strided
from gpucnn.backends.gpu.layout import axis_order
from gpucnn.backends.gpu.operands import (
    aligned,
    ceil_div,
    check_limit,
    dense,
    dense_or_none,
    in_order,
    power_of_two,
    real,
    steps,
    struct,
)
from gpucnn.backends.gpu.runtime import Array, Runtime

THREADS, CHUNK = 256, 4  # of kernels/batch_norm.cuh
LINE = 128
"""Bytes of a row that a block takes where it can: a line of the caches."""

# Blocks of one launch, about. Constants: the order of the sums depends on the shape alone.
MOMENTS_BLOCKS = 256
FORWARD_BLOCKS = 2048


def batch_norm_statistics(
    runtime: Runtime,
    x: Array,
    running_mean: Array | None,
    running_variance: Array | None,
    mean: Array,
    variance: Array,
    *,
    momentum: float,
) -> None:
    """mean (C,) and biased variance (C,) of x (N, C, *spatial) over all axes but C.

    running = (1 - momentum) * running + momentum * batch in place where given, the variance made
    unbiased.
    """
    order = axis_order(x.shape, x.strides)
    x = dense(runtime, x, order)
    shape = _Shape.of("batch_norm_statistics", runtime, order, x)
    plan = shape.plan(MOMENTS_BLOCKS)
    partial = runtime.empty((2, plan.parts, shape.channels), x.dtype)
    function = shape.kernel("batch_norm_moments")
    runtime.launch(function, plan.grid, plan.block, x, partial, plan.layout(function))
    finish_statistics(
        runtime, x, partial, running_mean, running_variance, mean, variance,
        momentum=momentum, rows=shape.rows, rows_per_part=plan.rows_per_block,
    )  # fmt: skip


def finish_statistics(
    runtime: Runtime,
    x: Array | None,
    partial: Array,
    running_mean: Array | None,
    running_variance: Array | None,
    mean: Array,
    variance: Array,
    *,
    momentum: float,
    rows: int,
    rows_per_part: int,
) -> None:
    """Statistics from those of ranges of rows, in one launch.

    Args:
        x: the tensor whose first element of each channel was subtracted before, or None: nothing
            was.
        partial: (2, parts, C), means and sums of squared deviations from them; part p is that of
            `rows_per_part` rows from p * rows_per_part on, the last one of those up to `rows`.
        running_mean, running_variance: (C,), updated in place; None: there are none.
        mean, variance: (C,), written.
    """
    _, parts, channels = partial.shape
    lanes = power_of_two(channels, 8)  # 32 bytes of a row of `partial`: whole sectors
    moving = running_mean is not None and running_variance is not None
    runtime.launch(
        kernel.get(
            "batch_norm.cu", "batch_norm_moments_finish", real=real(partial),
            WIDTH=16 // partial.itemsize,  # single numbers here: the module of the other passes
        ),  # fmt: skip
        (ceil_div(channels, lanes),),
        (lanes, THREADS // lanes),
        None if x is None else strided(x), partial, mean, variance,
        strided(running_mean) if moving else None, strided(running_variance) if moving else None,
        channels, parts, rows, rows_per_part, 0 if x is None else steps(x)[1],
        steps(running_mean)[0] if moving else 0, steps(running_variance)[0] if moving else 0,
        1 - momentum, momentum, rows / (rows - 1) if rows > 1 else math.inf,
    )  # fmt: skip


def batch_norm(
    runtime: Runtime,
    x: Array,
    mean: Array,
    variance: Array,
    weight: Array | None,
    bias: Array | None,
    addend: Array | None,
    y: Array,
    *,
    eps: float,
    relu: bool,
) -> None:
    """y = [relu]((x - mean) / sqrt(variance + eps) * weight + bias + addend)."""
    order = axis_order(y.shape, y.strides)
    x, addend = dense(runtime, x, order), dense_or_none(runtime, addend, order)
    vectors = [dense_or_none(runtime, vector) for vector in (mean, variance, weight, bias)]
    shape = _Shape.of("batch_norm", runtime, order, y, x, addend, *vectors)
    plan = shape.plan(FORWARD_BLOCKS)
    function = shape.kernel("batch_norm_forward")
    runtime.launch(
        function, plan.grid, plan.block,
        x, *vectors, addend, y, plan.layout(function), eps, bool(relu),
    )  # fmt: skip


def batch_norm_backward(
    runtime: Runtime,
    dy: Array,
    x: Array,
    mean: Array,
    variance: Array,
    weight: Array | None,
    y: Array | None,
    dx: Array,
    dweight: Array,
    dbias: Array,
    daddend: Array | None = None,
    *,
    eps: float,
    training: bool,
) -> None:
    """dx, dweight (C,) and dbias (C,) of `batch_norm`; `training`: the statistics were x's own.

    With y (the result of a ReLU behind it) dy is 0 where y <= 0; daddend is what counts.
    """
    order = axis_order(dx.shape, dx.strides)
    dy, x, y = dense(runtime, dy, order), dense(runtime, x, order), dense_or_none(runtime, y, order)
    mean, variance = dense(runtime, mean), dense(runtime, variance)
    weight = dense_or_none(runtime, weight)
    masked = None
    if daddend is not None:
        fits = in_order(daddend, order)
        masked = daddend if fits else runtime.empty(dx.shape, dx.dtype, order)
    shape = _Shape.of(
        "batch_norm_backward", runtime, order,
        dx, dy, x, y, mean, variance, weight, dweight, dbias, masked,
    )  # fmt: skip
    # Each block of the second kernel reads the partial sums of all blocks of the first that share
    # its channels: with rows / 16 for the product of the two, a few percent of what it moves.
    parts = math.isqrt(shape.rows // 32) + 1
    plan = shape.plan(parts * shape.columns)
    partial = runtime.empty((2, plan.parts, shape.channels), x.dtype)
    function = shape.kernel("batch_norm_backward_sums")
    runtime.launch(
        function, plan.grid, plan.block, dy, x, y, mean, partial, masked, plan.layout(function)
    )
    if masked is not None:  # one array to read instead of two
        dy, y = masked, None
    function, again = shape.kernel("batch_norm_backward"), shape.plan(2 * parts * shape.columns)
    runtime.launch(
        function, again.grid, again.block,
        dy, x, y, mean, variance, weight, partial, dx, dweight, dbias,
        again.layout(function), plan.parts, eps, bool(training),
    )  # fmt: skip
    if masked is not daddend:
        elementwise.copy(runtime, masked, daddend)


@dataclass(frozen=True)
class _Shape:
    """A dense tensor as (outer, channels, inner) in memory; `width` channels move as one."""

    channels: int
    inner: int
    rows: int
    width: int
    real: str

    @classmethod
    def of(
        cls, call: str, runtime: Runtime, order: Sequence[int], first: Array, *others: Array | None
    ) -> _Shape:
        """That of the first array; all of them are read or written.

        Raises ValueError when a channel has more elements than the kernels count.
        """
        sizes = [first.shape[axis] for axis in order]
        place = list(order).index(1)
        channels, inner = sizes[place], math.prod(sizes[place + 1 :])
        rows = math.prod(sizes[:place]) * inner
        check_limit(call, "the number of elements of one channel", rows)
        width = 16 // first.itemsize
        present = [array for array in others if array is not None]
        if inner != 1 or channels % width or not aligned(runtime, first, *present):
            width = 1
        return cls(channels, inner, rows, width, real(first))

    def kernel(self, entry: str) -> Kernel:
        return kernel.get("batch_norm.cu", entry, real=self.real, WIDTH=self.width)

    @property
    def lanes(self) -> int:
        """Threads of a block side by side on the channels."""
        if self.inner != 1:
            return 1
        units = max(ceil_div(self.channels, self.width), 1)
        line = LINE // (self.width * (4 if self.real == "float" else 8))
        # Lines where they come out even, else whole rows: they follow each other in memory.
        return line if units % line == 0 or units > THREADS else units

    @property
    def columns(self) -> int:
        """Blocks side by side on the channels."""
        return ceil_div(self.channels, self.width * self.lanes)

    def plan(self, blocks: int) -> _Plan:
        """Ranges of rows for about this many blocks, each with work for all of its threads."""
        lanes, columns = self.lanes, self.columns
        lines = 1 << ((THREADS // lanes).bit_length() - 1)
        parts = max(ceil_div(blocks, max(columns, 1)), 1)
        step = lines * CHUNK
        rows_per_block = max(ceil_div(ceil_div(self.rows, parts), step), 1) * step
        parts = max(ceil_div(self.rows, rows_per_block), 1)
        return _Plan(self, rows_per_block, parts, (columns, parts), (lanes, lines))


@dataclass(frozen=True)
class _Plan:
    """The blocks of a launch: columns of channels by ranges of rows."""

    shape: _Shape
    rows_per_block: int
    parts: int
    grid: tuple[int, int]
    block: tuple[int, int]

    def layout(self, function: Kernel) -> Any:
        return struct(function, "Layout", self.shape, rows_per_block=self.rows_per_block)
