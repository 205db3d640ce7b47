"""Cross entropy of logits (M, C) against class numbers, and its running sums."""

from __future__ import annotations

from typing import Any

from gpucnn.backends.gpu import kernel
from gpucnn.backends.gpu.kernel import Kernel, strided
from gpucnn.backends.gpu.operands import (
    boolean,
    ceil_div,
    check_limit,
    dense,
    dense_or_none,
    real,
    steps,
    struct,
    written_in,
)
from gpucnn.backends.gpu.runtime import Array, Runtime
from gpucnn.backends.gpu.softmax import row_shape

BLOCKS = 1024
"""Most blocks, and so partial sums, of a loss. A constant: the order of the sum depends on the
shape alone."""
ONE_BLOCK = 128 * 1024
"""Logits up to which loss and gradient are one launch of one block: what it loses to the memory of
one multiprocessor is less than two more launches take."""


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
    problem = _Problem(logits, target, ignore_index, label_smoothing)
    function = problem.kernel("cross_entropy_forward")
    blocks = min(problem.grid, BLOCKS)
    partial = runtime.empty((2, blocks), logits.dtype)
    each = reduction == "none"
    with written_in(runtime, log_probabilities) as result:
        runtime.launch(
            function, (blocks,), problem.block,
            strided(logits), strided(target), dense_or_none(runtime, weight),
            loss if each else None, result, partial, problem.struct(function),
        )  # fmt: skip
    runtime.launch(
        problem.kernel("cross_entropy_finish"), (1,), (problem.threads,),
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
    log_probabilities = dense(runtime, log_probabilities)
    problem = _Problem(log_probabilities, target, ignore_index, label_smoothing)
    function = problem.kernel("cross_entropy_backward")
    with written_in(runtime, dlogits) as result:
        runtime.launch(
            function, (problem.grid,), problem.block,
            strided(dloss), log_probabilities, strided(target), dense_or_none(runtime, weight),
            divisor, result, problem.struct(function),
            steps(dloss)[0] if reduction == "none" else 0,
        )  # fmt: skip


def cross_entropy_with_gradient(
    runtime: Runtime,
    logits: Array,
    target: Array,
    weight: Array | None,
    loss: Array,
    dlogits: Array,
    *,
    ignore_index: int,
    label_smoothing: float,
    reduction: str,
) -> None:
    """The loss of `cross_entropy` and its gradient dlogits (M, C) for dloss = 1.

    One launch for a small problem or a loss a row; else the sums of several blocks take one more,
    and before them the sum of the weights that a mean divides by.
    """
    problem = _Problem(logits, target, ignore_index, label_smoothing)
    function = problem.kernel("cross_entropy_with_gradient")
    weight = dense_or_none(runtime, weight)
    each, mean = reduction == "none", reduction == "mean"
    alone = not each and logits.size <= ONE_BLOCK
    blocks = 1 if alone else min(problem.grid, BLOCKS)
    weights = partial = None
    if not (each or alone):
        partial = runtime.empty((2, blocks), logits.dtype)
        if mean:
            weights = runtime.empty(
                (min(ceil_div(problem.rows, problem.threads), BLOCKS),), logits.dtype
            )
            runtime.launch(
                problem.kernel("cross_entropy_weights"), weights.shape, (problem.threads,),
                strided(target), weight, weights, problem.struct(function),
            )  # fmt: skip
    with written_in(runtime, dlogits) as result:
        runtime.launch(
            function, (blocks,), problem.block,
            strided(logits), strided(target), weight, weights, loss if each else None,
            loss if alone else None, partial, result, problem.struct(function),
            0 if weights is None else weights.size, mean,
        )  # fmt: skip
    if partial is not None:
        runtime.launch(
            problem.kernel("cross_entropy_finish"), (1,), (problem.threads,),
            partial, loss, None, blocks, mean,
        )  # fmt: skip


def add_scores(
    runtime: Runtime,
    loss: Array,
    logits: Array,
    target: Array,
    loss_sum: Array,
    correct: Array,
    *,
    images: int,
) -> None:
    """loss_sum += images * loss, and correct += rows of logits whose target has the largest."""
    problem = _Problem(logits, target, -1, 0.0, "add_scores")
    function = problem.kernel("add_scores")
    runtime.launch(
        function, (min(max(problem.grid, 1), BLOCKS),), problem.block,
        loss, strided(logits), strided(target), loss_sum, correct, images,
        problem.struct(function),
    )  # fmt: skip


class _Problem:
    """Rows of logits, and the blocks that take them.

    Attributes:
        rows, classes: M and C.
        threads: of a block.
        block: threads side by side on a row, and rows.
        grid: blocks for all rows.
    """

    def __init__(
        self,
        logits: Array,
        target: Array,
        ignore_index: int,
        smoothing: float,
        call: str = "cross_entropy",
    ) -> None:
        self.rows, self.classes = logits.shape
        check_limit(call, "the number of classes", self.classes)
        lanes, values = row_shape(self.classes, real(logits))
        # As many as have room for their registers.
        self.threads = 512 if values < 32 else 256 if smoothing else 384
        self.block = (lanes, self.threads // lanes)
        self.grid = ceil_div(self.rows, self.block[1])
        self.defines: dict[str, str | int] = {
            "real": real(logits), "VALUES": values, "BLOCK": self.threads,
            "SMOOTHING": boolean(smoothing != 0),
        }  # fmt: skip
        (row, column), (step,) = steps(logits), steps(target)
        self.fields = {
            "rows": self.rows, "classes": self.classes, "ignore_index": ignore_index,
            "smoothing": smoothing,
            "row_stride": row, "class_stride": column, "target_stride": step,
        }  # fmt: skip

    def kernel(self, entry: str) -> Kernel:
        return kernel.get("cross_entropy.cu", entry, **self.defines)

    def struct(self, function: Kernel) -> Any:
        return struct(function, "Problem", None, **self.fields)
