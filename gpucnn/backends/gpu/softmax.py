"""Softmax and log-softmax along one axis."""

from __future__ import annotations

import math

from gpucnn.backends.gpu import kernel
from gpucnn.backends.gpu.layout import axis_order
from gpucnn.backends.gpu.operands import ceil_div, check_limit, dense, power_of_two, real
from gpucnn.backends.gpu.runtime import Array, Runtime

THREADS, WARP = 256, 32
VALUES = {"float": (1, 4, 32), "double": (1, 4)}
"""Numbers that a thread keeps in registers, of rows up to 32 times as long (kernels/row.cuh)."""


def softmax(runtime: Runtime, x: Array, y: Array, *, axis: int, log: bool) -> None:
    """y = softmax of x along `axis`, or its logarithm; shifted by the maximum."""
    _launch(runtime, "softmax_forward", (x,), y, axis, log)


def softmax_backward(
    runtime: Runtime, dy: Array, y: Array, dx: Array, *, axis: int, log: bool
) -> None:
    """dx from the output y: y * (dy - sum(dy * y)), or dy - exp(y) * sum(dy) with `log`."""
    _launch(runtime, "softmax_backward", (dy, y), dx, axis, log)


def _launch(
    runtime: Runtime, entry: str, inputs: tuple[Array, ...], output: Array, axis: int, log: bool
) -> None:
    """All operands in the output's memory order, seen as (outer, axis, inner)."""
    if output.size == 0:
        return
    order = axis_order(output.shape, output.strides)
    sizes = [output.shape[place] for place in order]
    place = order.index(axis % output.ndim)
    length, inner = sizes[place], math.prod(sizes[place + 1 :])
    count = output.size // length
    check_limit(entry, "the length of the axis", length)
    operands = (*(dense(runtime, array, order) for array in inputs), output)
    if inner == 1:
        lanes, values = row_shape(length, real(output))
        rows = THREADS // lanes
        function = kernel.get("softmax.cu", f"{entry}_rows", real=real(output), VALUES=values)
        runtime.launch(
            function, (ceil_div(count, rows),), (lanes, rows), *operands, count, length, bool(log)
        )
    else:
        function = kernel.get("softmax.cu", f"{entry}_columns", real=real(output))
        runtime.launch(
            function, (ceil_div(count, THREADS),), (THREADS,), *operands,
            count, length, inner, bool(log),
        )  # fmt: skip


def row_shape(length: int, real: str) -> tuple[int, int]:
    """Threads of a row, and numbers that each keeps in registers; 0 where they are too many."""
    lanes = power_of_two(length, WARP)
    enough = [count for count in VALUES[real] if count * lanes >= length]
    return lanes, enough[0] if enough else 0
