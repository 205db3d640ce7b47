"""2-D convolution: implicit matrix products over channels-last memory, and depthwise kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpucnn.backends.gpu import kernel, split_k
from gpucnn.backends.gpu.gemm import DEPTH, THREADS, TILE
from gpucnn.backends.gpu.operands import (
    CHANNELS_LAST,
    aligned,
    boolean,
    ceil_div,
    check_limit,
    dense,
    dense_or_none,
    power_of_two,
    real,
    struct,
    written_in,
)
from gpucnn.backends.gpu.runtime import Array, Runtime

if TYPE_CHECKING:
    from gpucnn.ops.geometry import Conv2dGeometry


def conv2d(
    runtime: Runtime,
    x: Array,
    w: Array,
    b: Array | None,
    y: Array,
    *,
    geometry: Conv2dGeometry,
) -> None:
    """y (N, K, P, Q) = x (N, C, H, W) convolved with w (K, C/groups, R, S), + b (K,).

    The kernels read and write channels-last memory; what lies otherwise is copied first (x, w) or
    last (y).
    """
    g = geometry
    _check("conv2d", g)
    x, w = dense(runtime, x, CHANNELS_LAST), dense(runtime, w, CHANNELS_LAST)
    b = dense_or_none(runtime, b)
    with written_in(runtime, y, CHANNELS_LAST) as out:
        if _depthwise(g):
            function = kernel.get("conv2d_depthwise.cu", "conv2d_depthwise_forward", real=real(y))
            grid, block = _pixels_by_channels(g.n * g.p * g.q, g.k)
            runtime.launch(function, grid, block, x, w, b, out, struct(function, "Conv2d", g))
            return
        channels, filters = g.c // g.groups, g.k // g.groups
        function = kernel.get(
            "conv2d_forward.cu",
            "conv2d_implicit_gemm_forward",
            real=real(y),
            VECTOR=boolean(channels % 4 == 0 and aligned(runtime, x, w)),
        )
        runtime.launch(
            function,
            (ceil_div(g.n * g.p * g.q, TILE), ceil_div(filters, TILE), g.groups),
            (THREADS,),
            x, w, b, out, struct(function, "Conv2d", g),
            filters % 4 == 0 and aligned(runtime, out),
        )  # fmt: skip


def conv2d_backward_input(
    runtime: Runtime, dy: Array, w: Array, dx: Array, *, geometry: Conv2dGeometry
) -> None:
    """dx (N, C, H, W) from dy (N, K, P, Q) and w (K, C/groups, R, S)."""
    g = geometry
    _check("conv2d_backward_input", g)
    dy, w = dense(runtime, dy, CHANNELS_LAST), dense(runtime, w, CHANNELS_LAST)
    with written_in(runtime, dx, CHANNELS_LAST) as out:
        if _depthwise(g):
            function = kernel.get(
                "conv2d_depthwise.cu", "conv2d_depthwise_backward_input", real=real(dx)
            )
            grid, block = _pixels_by_channels(g.n * g.h * g.w, g.c)
            runtime.launch(function, grid, block, dy, w, out, struct(function, "Conv2d", g))
            return
        channels, filters = g.c // g.groups, g.k // g.groups
        function = kernel.get(
            "conv2d_backward_input.cu",
            "conv2d_implicit_gemm_backward_input",
            real=real(dx),
            VECTOR=boolean(channels % 4 == filters % 4 == 0 and aligned(runtime, dy, w)),
        )
        runtime.launch(
            function,
            (ceil_div(g.n * g.h * g.w, TILE), ceil_div(channels, TILE), g.groups),
            (THREADS,),
            dy, w, out, struct(function, "Conv2d", g),
            channels % 4 == 0 and aligned(runtime, out),
        )  # fmt: skip


def conv2d_backward_weight(
    runtime: Runtime, x: Array, dy: Array, dw: Array, *, geometry: Conv2dGeometry
) -> None:
    """dw (K, C/groups, R, S) from x (N, C, H, W) and dy (N, K, P, Q)."""
    g = geometry
    _check("conv2d_backward_weight", g)
    x, dy = dense(runtime, x, CHANNELS_LAST), dense(runtime, dy, CHANNELS_LAST)
    with written_in(runtime, dw, CHANNELS_LAST) as out:
        if _depthwise(g):
            _depthwise_backward_weight(runtime, x, dy, out, g)
        else:
            _implicit_gemm_backward_weight(runtime, x, dy, out, g)


def _implicit_gemm_backward_weight(
    runtime: Runtime, x: Array, dy: Array, dw: Array, g: Conv2dGeometry
) -> None:
    channels, filters, pixels = g.c // g.groups, g.k // g.groups, g.n * g.p * g.q
    tiles = ceil_div(g.r * g.s * channels, TILE), ceil_div(filters, TILE)
    splits, each = split_k.split(
        pixels, tiles[0] * tiles[1] * g.groups, 16 * DEPTH, DEPTH, dw.size * dw.itemsize
    )
    target = dw if splits == 1 else runtime.empty((splits, dw.size), dw.dtype)
    function = kernel.get(
        "conv2d_backward_weight.cu",
        "conv2d_implicit_gemm_backward_weight",
        real=real(dw),
        VECTOR=boolean(channels % 4 == filters % 4 == 0 and aligned(runtime, x, dy)),
    )
    runtime.launch(
        function,
        (*tiles, g.groups * splits),
        (THREADS,),
        x, dy, target, struct(function, "Conv2d", g), each,
        channels % 4 == 0 and aligned(runtime, target),
    )  # fmt: skip
    if splits > 1:
        split_k.sum_shares(runtime, target, None, dw)


def _depthwise_backward_weight(
    runtime: Runtime, x: Array, dy: Array, dw: Array, g: Conv2dGeometry
) -> None:
    lanes = power_of_two(g.k, 32)
    rows, columns = THREADS // lanes, ceil_div(g.k, lanes)
    splits, each = split_k.split(
        g.n * g.p * g.q, columns * g.r * g.s, 16 * rows, rows, dw.size * dw.itemsize
    )
    target = dw if splits == 1 else runtime.empty((splits, dw.size), dw.dtype)
    function = kernel.get("conv2d_depthwise.cu", "conv2d_depthwise_backward_weight", real=real(dw))
    runtime.launch(
        function,
        (columns, g.r * g.s, splits),
        (lanes, rows),
        x, dy, target, struct(function, "Conv2d", g), each,
    )  # fmt: skip
    if splits > 1:
        split_k.sum_shares(runtime, target, None, dw)


def _depthwise(g: Conv2dGeometry) -> bool:
    return g.groups == g.c and g.groups > 1


def _pixels_by_channels(pixels: int, channels: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Grid and block with channels on x of the block: neighbours in memory are neighbours there."""
    lanes = power_of_two(channels, 32)
    rows = THREADS // lanes
    return (ceil_div(pixels, rows), ceil_div(channels, lanes)), (lanes, rows)


def _check(call: str, g: Conv2dGeometry) -> None:
    check_limit(call, "the number of input pixels", g.n * g.h * g.w)
    check_limit(call, "the number of output pixels", g.n * g.p * g.q)
    check_limit(call, "the size of one input image", g.c * g.h * g.w)
    check_limit(call, "the size of one output image", g.k * g.p * g.q)
    check_limit(call, "the size of one filter", g.r * g.s * g.c // g.groups)
    check_limit(call, "the size of one channel's filters", g.r * g.s * g.k // g.groups)
