"""Pooling of channels-last images by quads of channels: the windows that networks have most.

Each function says whether it could: its launch moves every byte about once. All else is left to
the kernels that take any strides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpucnn.backends.gpu import kernel
from gpucnn.backends.gpu.kernel import Kernel, strided
from gpucnn.backends.gpu.operands import (
    CHANNELS_LAST,
    aligned,
    ceil_div,
    in_order,
    power_of_two,
    steps,
    struct,
)
from gpucnn.backends.gpu.runtime import Array, Runtime

if TYPE_CHECKING:
    from gpucnn.ops.geometry import Pool2dGeometry

MAX_THREADS, AVG_THREADS = 128, 256  # of the kernels
FEW = 432
"""Warps that are too few for a large device."""


def max_pool2d(
    runtime: Runtime, x: Array, y: Array, argmax: Array, geometry: Pool2dGeometry
) -> bool:
    """y and argmax of windows 2 x 2 or 3 x 3, 2 apart; those may have any strides."""
    g = geometry
    if not (_windows_2_apart(g) and _image(runtime, x) and _pooled(runtime, y, argmax)):
        return False
    walk, blocks = _walk(g.n, g.p, g.q, g.c, g.r == 3)
    function = kernel.get("max_pool2d_quads.cu", "max_pool2d_quads_forward", WINDOW=g.r)
    runtime.launch(
        function, (blocks,), (MAX_THREADS,),
        x, strided(y), strided(argmax), struct(function, "Pool2d", g),
        struct(function, "Walk", None, **walk), _strides(function, y), _strides(function, argmax),
    )  # fmt: skip
    return True


def max_pool2d_backward(
    runtime: Runtime,
    dy: Array,
    argmax: Array,
    y: Array | None,
    dx: Array,
    geometry: Pool2dGeometry,
) -> bool:
    """dx of windows 2 x 2 or 3 x 3, 2 apart; the others may have any strides."""
    g = geometry
    pooled = (dy, argmax) if y is None else (dy, argmax, y)
    if not (_windows_2_apart(g) and _image(runtime, dx) and _pooled(runtime, *pooled)):
        return False
    # Pairs of input rows and columns, beginning where the windows do.
    rows, columns = ceil_div(g.h + g.pad_h, 2), ceil_div(g.w + g.pad_w, 2)
    walk, blocks = _walk(g.n, rows, columns, g.c, g.r == 3)
    function = kernel.get("max_pool2d_quads.cu", "max_pool2d_quads_backward", WINDOW=g.r)
    runtime.launch(
        function, (blocks,), (MAX_THREADS,),
        strided(dy), strided(argmax), None if y is None else strided(y), dx,
        struct(function, "Pool2d", g), struct(function, "Walk", None, **walk),
        *(_strides(function, array) for array in (dy, argmax, dy if y is None else y)),
    )  # fmt: skip
    return True


def avg_pool2d(runtime: Runtime, x: Array, y: Array, window: tuple[int, int], divisor: int) -> bool:
    """y of windows side by side."""
    return _side_by_side(runtime, "avg_pool2d_quads_forward", x, y, x, y, window, divisor)


def avg_pool2d_backward(
    runtime: Runtime, dy: Array, dx: Array, window: tuple[int, int], divisor: int
) -> bool:
    """dx of windows side by side."""
    return _side_by_side(runtime, "avg_pool2d_quads_backward", dy, dx, dx, dy, window, divisor)


def _side_by_side(
    runtime: Runtime,
    entry: str,
    source: Array,
    target: Array,
    image: Array,
    pooled: Array,
    window: tuple[int, int],
    divisor: int,
) -> bool:
    (n, c, h, w), (p, q), (r, s) = image.shape, pooled.shape[2:], window
    if (
        not (_image(runtime, source) and _image(runtime, target))
        or 0 in (p, q)
        or p * r > h
        or q * s > w
    ):
        return False
    lanes = min(power_of_two(c // 4, 8), 8)
    # A part takes four pixels or more.
    parts = min(power_of_two(r * s // 4 + 1, 32) // 2 or 1, 32 // lanes)
    items, groups = n * p * q, ceil_div(c // 4, lanes)
    warps = ceil_div(items, 32 // (lanes * parts)) * groups
    function = kernel.get("avg_pool2d_quads.cu", entry)
    runtime.launch(
        function, (ceil_div(warps, AVG_THREADS // 32),), (AVG_THREADS,),
        source, target,
        struct(
            function, "Windows", None, c=c, h=h, w=w, r=r, s=s, p=p, q=q, lanes=lanes,
            parts=parts, groups=groups, items=items,
        ),
        divisor,
    )  # fmt: skip
    return True


def _windows_2_apart(g: Pool2dGeometry) -> bool:
    return (
        g.r == g.s
        and g.r in (2, 3)
        and (g.stride_h, g.stride_w, g.dilation_h, g.dilation_w) == (2, 2, 1, 1)
    )


def _image(runtime: Runtime, array: Array) -> bool:
    """Whether it lies channels-last in quads of float32."""
    return (
        array.dtype.name == "float32"
        and array.shape[1] % 4 == 0
        and in_order(array, CHANNELS_LAST)
        and aligned(runtime, array)
    )


def _pooled(runtime: Runtime, *arrays: Array) -> bool:
    """Whether those of them with neighbouring channels lie in whole quads."""
    return all(
        step[1] != 1
        or (
            step[0] % 4 == step[2] % 4 == step[3] % 4 == 0
            and runtime.address(array) % (4 * array.itemsize) == 0
        )
        for array, step in ((array, steps(array)) for array in arrays)
    )


def _strides(function: Kernel, array: Array) -> Any:
    return struct(function, "Strides", None, **dict(zip("ncpq", steps(array), strict=True)))


def _walk(
    n: int, rows: int, columns: int, channels: int, overlap: bool
) -> tuple[dict[str, int], int]:
    """struct Walk of kernels/max_pool2d_quads.cu for so many windows, and the blocks.

    Where windows overlap, the bands of rows that a thread walks down share a row of the input with
    the next: they are long, unless too few threads were left.
    """
    lanes = power_of_two(channels // 4, 8)
    groups = ceil_div(channels // 4, lanes)
    across = ceil_div(columns, 4 if overlap else 2)
    longest, shortest = (28, 16) if overlap else (4, 1)
    bands = max(ceil_div(rows, longest), 1)
    while bands < rows // shortest and n * bands * across * groups * lanes < 32 * FEW:
        bands += 1
    band = ceil_div(rows, bands)
    bands = ceil_div(rows, max(band, 1))
    items = n * bands * across
    warps = ceil_div(items, 32 // lanes) * groups
    walk = {
        "band": band, "bands": bands, "across": across, "lanes": lanes, "groups": groups,
        "items": items,
    }  # fmt: skip
    return walk, ceil_div(warps, MAX_THREADS // 32)
