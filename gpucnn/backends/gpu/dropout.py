"""Dropout with the random words of NumPy's Philox."""

from __future__ import annotations

from gpucnn.backends.gpu import kernel, layout
from gpucnn.backends.gpu.layout import axis_order, strides_of
from gpucnn.backends.gpu.operands import ceil_div, check_limit, dense, in_order, real, struct
from gpucnn.backends.gpu.runtime import Array, Runtime

BLOCK, WORDS, MAX_RANK = 256, 8, 8  # of kernels/dropout.cu


def dropout(runtime: Runtime, x: Array, y: Array, *, p: float, key: tuple[int, int]) -> None:
    """y = x / (1 - p) where the random word of an element is at least p * 2^32, else 0.

    The element with C-order index i has word i of the stream numpy.random.Philox(key=key).
    """
    scale, threshold = 1 / (1 - p), round(p * 2**32)
    order = None if in_order(y, None) else axis_order(y.shape, y.strides)
    x = dense(runtime, x, order)
    name = "dropout_contiguous" if order is None else "dropout_permuted"
    function = kernel.get("dropout.cu", name, real=real(y))
    words = struct(function, "Key", None, low=key[0], high=key[1])
    if order is None:
        grid = ceil_div(y.size, BLOCK * WORDS)
        runtime.launch(function, (grid,), (BLOCK,), x, y, y.size, scale, threshold, words)
        return
    # The axes as they lie in memory, with their steps of the C-order index.
    index_steps = strides_of(y.shape, 1)
    sizes, (joined,) = layout.collapse(
        [y.shape[axis] for axis in order], [index_steps[axis] for axis in order]
    )
    if len(sizes) > MAX_RANK:
        raise ValueError(f"dropout: at most {MAX_RANK} axes in permuted memory, got {len(sizes)}")
    for size in sizes:
        check_limit("dropout", "the length of an axis", size)
    axes = struct(
        function, "Axes", None,
        rank=len(sizes),
        size=[*sizes, *[1] * (MAX_RANK - len(sizes))],
        step=[*joined, *[0] * (MAX_RANK - len(sizes))],
    )  # fmt: skip
    grid = ceil_div(y.size, BLOCK)
    runtime.launch(function, (grid,), (BLOCK,), x, y, y.size, scale, threshold, words, axes)
