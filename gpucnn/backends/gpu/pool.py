"""2-D pooling. All operands may have any strides: nothing is copied.

Channels-last images with the usual windows are pooled by quads of channels (`pool_quads`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpucnn.backends.gpu import kernel, pool_quads
from gpucnn.backends.gpu.kernel import Kernel, strided
from gpucnn.backends.gpu.operands import ceil_div, check_limit, real, steps, struct
from gpucnn.backends.gpu.runtime import Array, Runtime

if TYPE_CHECKING:
    from gpucnn.ops.geometry import Pool2dGeometry

BLOCK = 256  # of kernels/pool2d.cuh
LARGEST = 2**30
"""Output elements of one launch; larger outputs are made in pieces of the batch."""

_INDEX_TYPES = {"uint8": "unsigned char", "int32": "int"}


class _Sizes(NamedTuple):
    """What struct Pool2d takes, where there is no window geometry."""

    n: int
    c: int
    h: int
    w: int
    p: int
    q: int
    r: int = 1
    s: int = 1
    stride_h: int = 1
    stride_w: int = 1
    pad_h: int = 0
    pad_w: int = 0
    dilation_h: int = 1
    dilation_w: int = 1


def max_pool2d(
    runtime: Runtime, x: Array, y: Array, argmax: Array | None = None, *, geometry: Pool2dGeometry
) -> None:
    """y (N, C, P, Q) = maxima of the windows of x (N, C, H, W), argmax their window positions.

    The kernels write positions in any case: a byte beside four.
    """
    if argmax is None:
        order = (0, 2, 3, 1) if x.transpose(0, 2, 3, 1).flags.c_contiguous else None
        argmax = runtime.empty(y.shape, geometry.argmax_dtype, order)
    if pool_quads.max_pool2d(runtime, x, y, argmax, geometry):
        return
    function = kernel.get(
        "max_pool2d.cu", "max_pool2d_forward", real=real(x), window_index=_index_type(argmax)
    )
    _launch(runtime, function, geometry, (x,), (y, argmax))


def max_pool2d_backward(
    runtime: Runtime,
    dy: Array,
    argmax: Array,
    y: Array | None,
    dx: Array,
    *,
    geometry: Pool2dGeometry,
) -> None:
    """dx (N, C, H, W) = dy (N, C, P, Q) brought to the maxima.

    With y (N, C, P, Q), the pool's output behind a ReLU, dy counts only where y > 0.
    """
    if pool_quads.max_pool2d_backward(runtime, dy, argmax, y, dx, geometry):
        return
    function = kernel.get(
        "max_pool2d.cu", "max_pool2d_backward", real=real(dy), window_index=_index_type(argmax)
    )
    _launch(runtime, function, geometry, (dy, argmax, y), (dx,))


def max_pool2d_indices(
    runtime: Runtime, argmax: Array, indices: Array, *, geometry: Pool2dGeometry
) -> None:
    """indices (N, C, P, Q) int64 = h*W + w of the maxima."""
    function = kernel.get(
        "max_pool2d.cu", "max_pool2d_flat_indices", real="float", window_index=_index_type(argmax)
    )
    _launch(runtime, function, geometry, (argmax,), (indices,))


def avg_pool2d(runtime: Runtime, x: Array, y: Array, *, geometry: Pool2dGeometry) -> None:
    """y (N, C, P, Q) = means of the windows of x (N, C, H, W)."""
    if _side_by_side(geometry) and pool_quads.avg_pool2d(runtime, x, y, *_window(geometry)):
        return
    function = kernel.get("avg_pool2d.cu", "avg_pool2d_forward", real=real(x))
    _launch(runtime, function, geometry, (x,), (y,), *_divisor(geometry))


def avg_pool2d_backward(
    runtime: Runtime, dy: Array, dx: Array, *, geometry: Pool2dGeometry
) -> None:
    """dx (N, C, H, W) = dy (N, C, P, Q) spread over the windows."""
    if _side_by_side(geometry) and pool_quads.avg_pool2d_backward(
        runtime, dy, dx, *_window(geometry)
    ):
        return
    function = kernel.get("avg_pool2d.cu", "avg_pool2d_backward", real=real(dy))
    _launch(runtime, function, geometry, (dy,), (dx,), *_divisor(geometry))


def adaptive_avg_pool2d(runtime: Runtime, x: Array, y: Array) -> None:
    """y (N, C, P, Q) = means of x (N, C, H, W) over windows that divide it evenly."""
    if pool_quads.avg_pool2d(runtime, x, y, *_even(x, y)):
        return
    function = kernel.get("avg_pool2d.cu", "adaptive_avg_pool2d_forward", real=real(x))
    _launch(runtime, function, _adaptive(x, y), (x,), (y,))


def adaptive_avg_pool2d_backward(runtime: Runtime, dy: Array, dx: Array) -> None:
    """dx (N, C, H, W) = dy (N, C, P, Q) spread over the windows of `adaptive_avg_pool2d`."""
    if pool_quads.avg_pool2d_backward(runtime, dy, dx, *_even(dx, dy)):
        return
    function = kernel.get("avg_pool2d.cu", "adaptive_avg_pool2d_backward", real=real(dy))
    _launch(runtime, function, _adaptive(dx, dy), (dy,), (dx,))


def _side_by_side(g: Pool2dGeometry) -> bool:
    """Whether the windows neither overlap nor leave gaps, and are full."""
    return (g.stride_h, g.stride_w, g.pad_h, g.pad_w) == (g.r, g.s, 0, 0)


def _window(g: Pool2dGeometry) -> tuple[tuple[int, int], int]:
    return (g.r, g.s), g.divisor_override or g.r * g.s


def _even(x: Array, y: Array) -> tuple[tuple[int, int], int]:
    """The windows of an adaptive pool, where all are of one size; else some that are too large."""
    (h, w), (p, q) = x.shape[2:], y.shape[2:]
    window = ceil_div(h, max(p, 1)), ceil_div(w, max(q, 1))
    return window, window[0] * window[1]


def _adaptive(x: Array, y: Array) -> _Sizes:
    (n, c, h, w), (p, q) = x.shape, y.shape[2:]
    for product in (h * p, w * q):
        check_limit("adaptive_avg_pool2d", "input size times output size", product)
    return _Sizes(n, c, h, w, p, q)


def _divisor(geometry: Pool2dGeometry) -> tuple[bool, int]:
    return geometry.count_include_pad, geometry.divisor_override or 0


def _index_type(argmax: Array) -> str:
    return _INDEX_TYPES[argmax.dtype.name]


def _launch(
    runtime: Runtime,
    function: Kernel,
    geometry: Pool2dGeometry | _Sizes,
    inputs: tuple[Array | None, ...],
    outputs: tuple[Array, ...],
    *more: bool | int,
) -> None:
    """One thread for each element of the outputs; then the geometry and every operand's strides."""
    result = outputs[0]
    n, image = result.shape[0], int(np.prod(result.shape[1:]))
    check_limit(function.entry, "the size of one image", image)
    operands = (*inputs, *outputs)
    layouts = [_strides(function, operand) for operand in operands]
    channels_last = abs(result.strides[1]) < abs(result.strides[3])
    at_once = max(LARGEST // max(image, 1), 1)
    for first in range(0, n, at_once):
        images = slice(first, min(first + at_once, n))
        count = (images.stop - first) * image
        runtime.launch(
            function,
            (ceil_div(count, BLOCK),),
            (BLOCK,),
            *(None if operand is None else strided(operand[images]) for operand in operands),
            struct(function, "Pool2d", geometry), *layouts, channels_last, count, *more,
        )  # fmt: skip


def _strides(function: Kernel, array: Array | None) -> np.ndarray[Any, Any]:
    sizes = (0, 0, 0, 0) if array is None else steps(array)
    return struct(function, "Strides", None, **dict(zip("nchw", sizes, strict=True)))
