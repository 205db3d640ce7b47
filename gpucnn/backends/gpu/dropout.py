"""Dropout with the random words of NumPy's Philox."""

from __future__ import annotations

from typing import Any

from gpucnn.backends.gpu import elementwise, kernel, layout
from gpucnn.backends.gpu.kernel import Kernel
from gpucnn.backends.gpu.layout import axis_order, strides_of
from gpucnn.backends.gpu.operands import (
    aligned,
    ceil_div,
    check_limit,
    dense,
    in_order,
    power_of_two,
    real,
    struct,
)
from gpucnn.backends.gpu.runtime import Array, Runtime

BLOCK, WORDS, MAX_RANK = 256, 8, 8  # of kernels/dropout.cu
BLOCKS_PER_MULTIPROCESSOR = 32


def dropout(runtime: Runtime, x: Array, key: Array, y: Array, *, p: float) -> None:
    """y = x / (1 - p) where the random word of an element is at least p * 2^32, else 0.

    The element with C-order index i has word i of the stream numpy.random.Philox(key=key); `key`,
    (2,) int64, holds the bits of the two words.
    """
    order = None if in_order(y, None) else axis_order(y.shape, y.strides)
    x = dense(runtime, x, order)
    if not (in_order(key, None) and aligned(runtime, key)):  # the kernels read it in one access
        words = runtime.empty(key.shape, key.dtype)
        elementwise.copy(runtime, key, words)
        key = words
    width = 16 // y.itemsize if aligned(runtime, x, y) else 1
    most = BLOCKS_PER_MULTIPROCESSOR * runtime.properties().multiprocessors
    if order is None:
        function = _kernel("dropout_contiguous", y, width)
        grid = min(ceil_div(y.size, BLOCK * WORDS), most)
        runtime.launch(function, (grid,), (BLOCK,), x, key, y, y.size, _options(function, p))
        return
    # The axes as they lie in memory, with their steps of the C-order index.
    index_steps = strides_of(y.shape, 1)
    sizes, (joined,) = layout.collapse(
        [y.shape[axis] for axis in order], [index_steps[axis] for axis in order]
    )
    for size in sizes:
        check_limit("dropout", "the length of an axis", size)
    if 2 <= len(sizes) <= 3 and joined[-2] == 1:
        batch, pixels, channels = (1, *sizes)[-3:]
        if channels % width:
            width = 1
        lanes = max(power_of_two(channels, 32), width)
        function = _kernel("dropout_channels_last", y, width)
        problem = struct(
            function, "ChannelsLast", None,
            batch=batch, pixels=pixels, channels=channels, lanes=lanes,
            batch_step=(0, *joined)[-3], channel_step=joined[-1],
        )  # fmt: skip
        run = (BLOCK // lanes - 1) * WORDS
        grid = min(ceil_div(channels, lanes) * ceil_div(pixels, run) * batch, most)
        runtime.launch(function, (grid,), (BLOCK,), x, key, y, problem, _options(function, p))
        return
    if len(sizes) > MAX_RANK:
        raise ValueError(f"dropout: at most {MAX_RANK} axes in permuted memory, got {len(sizes)}")
    function = _kernel("dropout_permuted", y, 1)
    axes = struct(
        function, "Axes", None,
        rank=len(sizes),
        size=[*sizes, *[1] * (MAX_RANK - len(sizes))],
        step=[*joined, *[0] * (MAX_RANK - len(sizes))],
    )  # fmt: skip
    grid = min(ceil_div(y.size, BLOCK), most)
    runtime.launch(function, (grid,), (BLOCK,), x, key, y, y.size, _options(function, p), axes)


def _kernel(entry: str, y: Array, width: int) -> Kernel:
    return kernel.get("dropout.cu", entry, real=real(y), WIDTH=width)


def _options(function: Kernel, p: float) -> Any:
    return struct(function, "Options", None, scale=1 / (1 - p), threshold=round(p * 2**32))
