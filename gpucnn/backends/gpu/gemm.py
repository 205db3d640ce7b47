"""Matrix products."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from gpucnn.backends.gpu import kernel, layout
from gpucnn.backends.gpu.gemm_tiles import MULTIPROCESSORS, choose
from gpucnn.backends.gpu.kernel import Kernel, strided
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
from gpucnn.backends.gpu.weight_shares import written_in_shares


def matmul(
    runtime: Runtime,
    a: Array,
    b: Array,
    bias: Array | None,
    mask: Array | None,
    y: Array,
    *,
    relu: bool,
    precision: str,
) -> None:
    """y (..., M, N) = [relu](a (..., M, K) @ b (..., K, N) + bias (N,)), 0 where mask <= 0.

    Leading axes of a and b broadcast; they are read as they lie, whatever their strides.
    """
    if y.size == 0:
        return
    bias, mask = dense_or_none(runtime, bias), dense_or_none(runtime, mask)
    with written_in(runtime, y) as result:
        _matmul(runtime, a, b, bias, mask, result, relu)


def linear_backward_weight(
    runtime: Runtime, x: Array, dy: Array, dw: Array, db: Array | None = None, *, precision: str
) -> None:
    """dw (O, I) = dy^T x of dy (M, O) and x (M, I), and db (O,) = the sum of dy's rows."""
    with written_in(runtime, dw) as result:
        product = _Product(runtime, dy.swapaxes(0, 1), x, result.shape, (), (), ())
        with written_in_shares(runtime, result, db, product.splits) as (target, sums, share):
            product.launch(runtime, None, None, target, sums, share, relu=False)


def _matmul(
    runtime: Runtime,
    a: Array,
    b: Array,
    bias: Array | None,
    mask: Array | None,
    y: Array,
    relu: bool,
) -> None:
    batch = y.shape[:-2]
    sizes, (a_steps, b_steps) = layout.collapse(
        batch, _batch_steps(a, batch), _batch_steps(b, batch)
    )
    if len(sizes) > 2:
        # The kernel follows two batch axes. More that cannot be joined come of broadcasts such as
        # (2, 1, 5) against (1, 3, 5): one launch for each index of the first.
        for i in range(y.shape[0]):
            a_i, b_i = (m if m.ndim < y.ndim else m[i if m.shape[0] > 1 else 0] for m in (a, b))
            _matmul(runtime, a_i, b_i, bias, None if mask is None else mask[i], y[i], relu)
        return
    product = _Product(runtime, a, b, y.shape, sizes, a_steps, b_steps)
    if product.splits == 1:
        product.launch(runtime, bias, mask, y, None, 0, relu=relu)
        return
    shares = runtime.empty((product.splits, *y.shape), y.dtype)
    product.launch(runtime, None, None, shares, None, y.size, relu=False)
    rows, columns = y.size // y.shape[-1], y.shape[-1]
    arrays = [array for array in (shares, mask, y) if array is not None]
    quads = rows * ceil_div(columns, 4)
    runtime.launch(
        kernel.get("split_k.cu", "split_k_finish", real=real(y)),
        (min(ceil_div(quads, 256), 16 * MULTIPROCESSORS),),
        (256,),
        shares, bias, mask, y, rows, columns, product.splits, relu,
        columns % 4 == 0 and aligned(runtime, *arrays),
    )  # fmt: skip


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


class _Product:
    """A product y (batch, M, N) and the kernel that makes it.

    Attributes:
        splits: into how many shares the depth is cut.
    """

    def __init__(
        self,
        runtime: Runtime,
        a: Array,
        b: Array,
        shape: tuple[int, ...],
        sizes: tuple[int, ...],
        a_steps: tuple[int, ...],
        b_steps: tuple[int, ...],
    ) -> None:
        self.arrays = a, b
        (self.m, self.k), self.n = a.shape[-2:], b.shape[-1]
        for name, size in (("M", self.m), ("N", self.n), ("K", self.k)):
            check_limit("matmul", name, size)
        self.batch, self.inner_batch = math.prod(sizes), sizes[-1] if sizes else 1
        self.a = _Operand.of(runtime, a, -2, a_steps)
        self.b = _Operand.of(runtime, b, -1, b_steps)
        self.tile, self.splits = choose(
            self.m, self.n, self.k, self.batch, math.prod(shape) * a.itemsize, self._in_quads()
        )
        self.each = ceil_div(ceil_div(max(self.k, 1), self.splits), self.tile.step) * self.tile.step

    def _in_quads(self) -> bool:
        """Whether gemm_simt.cu can read the operands: floats, in aligned quads."""
        operands = (self.a, self.b)
        lines = (side.row if side.along_depth else side.depth for side in operands)
        return (
            self.arrays[0].dtype == np.float32
            and self.n % 4 == 0
            and all(side.vector for side in operands)
            and all(abs(line) * 4 * 128 < 2**31 for line in lines)
        )

    def launch(
        self,
        runtime: Runtime,
        bias: Array | None,
        mask: Array | None,
        y: Array,
        row_sums: Array | None,
        share: int,
        *,
        relu: bool,
    ) -> None:
        """Write y, or its shares `share` elements apart and without bias, mask and ReLU.

        row_sums (splits, M), likewise apart: the sums of a's rows, of products without batch.
        """
        function = self._kernel(y, with_sums=row_sums is not None)
        arrays = [array for array in (y, mask) if array is not None]
        fields: dict[str, Any] = {"relu": relu, "share": share, "k_per_split": self.each}
        if self.tile.is_simt:
            for name, side in (("a", self.a), ("b", self.b)):
                line = side.row if side.along_depth else side.depth
                fields |= {
                    f"{name}_line": line, f"{name}_outer": side.outer, f"{name}_inner": side.inner
                }  # fmt: skip
        else:
            quads = self.n % 4 == 0 and (self.splits == 1 or share % 4 == 0)
            fields["vector_store"] = quads and aligned(runtime, *arrays)
            for name, side in (("a", self.a), ("b", self.b)):
                fields[name] = struct(function, "Matrix", side)
        tiles = self.tile.count(self.m, self.n) * self.batch
        runtime.launch(
            function, (tiles, self.splits), (self._threads(),),
            strided(self.arrays[0]), strided(self.arrays[1]), bias, mask, y, row_sums,
            struct(function, "Gemm", self, **fields),
        )  # fmt: skip

    def _threads(self) -> int:
        """Of a block: a sliced product of double has half the warps, for its shared memory."""
        return self.tile.threads // (2 if self.arrays[0].itemsize == 8 else 1)

    def _kernel(self, y: Array, with_sums: bool) -> Kernel:
        tile = self.tile
        if not tile.is_simt:
            return kernel.get(
                tile.file, tile.entry, real=real(y), TILE=tile.n, WARPS=self._threads() // 32
            )
        return kernel.get(
            tile.file, tile.entry, TILE_M=tile.m, TILE_N=tile.n, TILE_K=tile.step,
            BLOCKS=tile.blocks, A_ALONG=boolean(self.a.along_depth),
            B_ALONG=boolean(self.b.along_depth), ROW_SUMS=boolean(with_sums),
        )  # fmt: skip
