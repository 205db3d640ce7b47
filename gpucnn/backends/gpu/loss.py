"""Cross entropy of logits (M, C) against class numbers."""

from __future__ import annotations

from typing import Any

from gpucnn.backends.gpu import kernel
from gpucnn.backends.gpu.kernel import Kernel, strided
from gpucnn.backends.gpu.operands import (
    ceil_div,
    check_limit,
    dense,
    dense_or_none,
    power_of_two,
    real,
    steps,
    struct,
    written_in,
)
from gpucnn.backends.gpu.runtime import Array, Runtime

THREADS = 256
BLOCKS = 1024
"""Most blocks, and so partial sums, of a loss. A constant: the order of the sum depends on the
shape alone."""


def cross_entropy(
    runtime: Runtime,
    logits: Array,
    target: Array,
    weight: Array | None,
    loss: Array,
    log_probabilities: Array,
    divisor: Array,
    *,
    ignore_index: int,
    label_smoothing: float,
    reduction: str,
) -> None:
    """loss (M,) or (), log_probabilities (M, C) and divisor () as torch's cross_entropy.

    A target outside 0..C-1 that is not `ignore_index` makes its row's loss NaN.
    """
    rows, classes = logits.shape
    grid, block = _rows(rows, classes)
    blocks = min(grid, BLOCKS)
    partial = runtime.empty((2, blocks), logits.dtype)
    each = reduction == "none"
    function = _kernel("cross_entropy_forward", logits)
    with written_in(runtime, log_probabilities) as result:
        runtime.launch(
            function, (blocks,), block,
            strided(logits), strided(target), dense_or_none(runtime, weight),
            loss if each else None, result, partial,
            _problem(function, rows, classes, ignore_index, label_smoothing),
            *steps(logits), steps(target)[0],
        )  # fmt: skip
    runtime.launch(
        _kernel("cross_entropy_finish", logits), (1,), (THREADS,),
        partial, None if each else loss, divisor, blocks, reduction == "mean",
    )  # fmt: skip


def cross_entropy_backward(
    runtime: Runtime,
    dloss: Array,
    log_probabilities: Array,
    target: Array,
    weight: Array | None,
    divisor: Array,
    dlogits: Array,
    *,
    ignore_index: int,
    label_smoothing: float,
    reduction: str,
) -> None:
    """dlogits (M, C) from dloss, (M,) where the reduction is "none" and () else."""
    rows, classes = log_probabilities.shape
    grid, block = _rows(rows, classes)
    function = _kernel("cross_entropy_backward", log_probabilities)
    with written_in(runtime, dlogits) as result:
        runtime.launch(
            function, (grid,), block,
            strided(dloss), dense(runtime, log_probabilities), strided(target),
            dense_or_none(runtime, weight), divisor, result,
            _problem(function, rows, classes, ignore_index, label_smoothing),
            steps(dloss)[0] if reduction == "none" else 0, steps(target)[0],
        )  # fmt: skip


def _rows(rows: int, classes: int) -> tuple[int, tuple[int, int]]:
    """Blocks for all rows, and the block: lanes for the classes of a row by rows."""
    check_limit("cross_entropy", "the number of classes", classes)
    lanes = power_of_two(classes, THREADS)
    return ceil_div(rows, THREADS // lanes), (lanes, THREADS // lanes)


def _kernel(entry: str, array: Array) -> Kernel:
    return kernel.get("cross_entropy.cu", entry, real=real(array))


def _problem(
    function: Kernel, rows: int, classes: int, ignore_index: int, label_smoothing: float
) -> Any:
    return struct(
        function, "Problem", None,
        rows=rows, classes=classes, ignore_index=ignore_index, smoothing=label_smoothing,
    )  # fmt: skip
