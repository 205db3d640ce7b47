"""Matrix products."""

from __future__ import annotations

import math
from typing import NamedTuple

from gpucnn.backends.gpu import kernel, layout, split_k
from gpucnn.backends.gpu.kernel import strided
from gpucnn.backends.gpu.operands import (
    aligned,
    boolean,
    ceil_div,
    check_limit,
    dense_or_none,
    real,
    steps,
    struct,
    written_in,
)
from gpucnn.backends.gpu.runtime import Array, Runtime

TILE, DEPTH, THREADS = 64, 16, 256  # of kernels/gemm_tile.cuh


def matmul(runtime: Runtime, a: Array, b: Array, bias: Array | None, y: Array) -> None:
    """y (..., M, N) = a (..., M, K) @ b (..., K, N) + bias (N,); leading axes broadcast.

    a and b are read as they lie, whatever their strides.
    """
    if y.size == 0:
        return
    bias = dense_or_none(runtime, bias)
    with written_in(runtime, y) as result:
        _matmul(runtime, a, b, bias, result)


def _matmul(runtime: Runtime, a: Array, b: Array, bias: Array | None, y: Array) -> None:
    batch = y.shape[:-2]
    sizes, (a_steps, b_steps) = layout.collapse(
        batch, _batch_steps(a, batch), _batch_steps(b, batch)
    )
    if len(sizes) <= 2:
        _launch(runtime, a, b, bias, y, sizes, a_steps, b_steps)
        return
    # The kernel follows two batch axes. More that cannot be joined come of broadcasts such as
    # (2, 1, 5) against (1, 3, 5): one launch for each index of the first.
    for i in range(y.shape[0]):
        a_i, b_i = (m if m.ndim < y.ndim else m[i if m.shape[0] > 1 else 0] for m in (a, b))
        _matmul(runtime, a_i, b_i, bias, y[i])


def _batch_steps(matrices: Array, batch: tuple[int, ...]) -> tuple[int, ...]:
    """Steps of the batch axes, 0 where the operand is broadcast."""
    missing = len(batch) + 2 - matrices.ndim
    own = [
        0 if size == 1 else step
        for size, step in zip(matrices.shape[:-2], steps(matrices)[:-2], strict=True)
    ]
    return (*[0] * missing, *own)


class _Operand(NamedTuple):
    """A batch of matrices as the kernel sees them: steps in elements, and how they are fetched."""

    row: int
    depth: int
    outer: int
    inner: int
    along_depth: bool
    vector: bool

    @classmethod
    def of(
        cls, runtime: Runtime, array: Array, row_axis: int, batch_steps: tuple[int, ...]
    ) -> _Operand:
        """`row_axis` is that of M or N, -2 or -1; the other one is the depth."""
        depth_axis = -3 - row_axis
        rows, k = array.shape[row_axis], array.shape[depth_axis]
        # An axis of one element has no step.
        row = 0 if rows == 1 else steps(array)[row_axis]
        depth = 0 if k == 1 else steps(array)[depth_axis]
        outer, inner = (0,) * (2 - len(batch_steps)) + batch_steps
        along_depth = depth == 1 or (row != 1 and abs(depth) <= abs(row))
        fast, size, slow = (depth, k, row) if along_depth else (row, rows, depth)
        vector = fast == 1 and not any(n % 4 for n in (size, slow, outer, inner))
        return cls(row, depth, outer, inner, along_depth, vector and aligned(runtime, array))


def _launch(
    runtime: Runtime,
    a: Array,
    b: Array,
    bias: Array | None,
    y: Array,
    sizes: tuple[int, ...],
    a_steps: tuple[int, ...],
    b_steps: tuple[int, ...],
) -> None:
    (m, k), n = a.shape[-2:], b.shape[-1]
    for name, size in (("M", m), ("N", n), ("K", k)):
        check_limit("matmul", name, size)
    batch, inner = math.prod(sizes), sizes[-1] if sizes else 1
    left = _Operand.of(runtime, a, -2, a_steps)
    right = _Operand.of(runtime, b, -1, b_steps)
    tiles = ceil_div(m, TILE) * ceil_div(n, TILE) * batch
    splits, each = split_k.split(k, tiles, 16 * DEPTH, DEPTH, y.size * y.itemsize)
    target = y if splits == 1 else runtime.empty((splits, *y.shape), y.dtype)
    function = kernel.get(
        "gemm.cu",
        "gemm_tiled",
        real=real(y),
        A_ALONG_DEPTH=boolean(left.along_depth),
        B_ALONG_DEPTH=boolean(right.along_depth),
        VECTOR=boolean(left.vector and right.vector),
    )
    problem = struct(
        function, "Gemm", None,
        batch=batch, m=m, n=n, k=k, k_per_split=each, inner_batch=inner,
        vector_store=n % 4 == 0 and aligned(runtime, target),
        a_m=left.row, a_k=left.depth, a_outer=left.outer, a_inner=left.inner,
        b_n=right.row, b_k=right.depth, b_outer=right.outer, b_inner=right.inner,
    )  # fmt: skip
    runtime.launch(
        function, (tiles, splits), (THREADS,),
        strided(a), strided(b), bias if splits == 1 else None, target, problem,
    )  # fmt: skip
    if splits > 1:
        split_k.sum_shares(runtime, target, bias, y)
