"""Elementwise primitives on the GPU: unary, binary, where, copy, full.

All take arrays of any strides that broadcast to the output, up to 6 axes that do not join.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucnn.backends.gpu.iteration import (
    C_TYPES,
    THREADS,
    Axes,
    index_type,
    join,
    scalar_of,
    steps_of,
    walk,
    word_of,
)
from gpucnn.backends.gpu.kernel import get, strided
from gpucnn.backends.gpu.runtime import Array, Runtime

Operand = Array | int | float | bool

_TO_BOOL = frozenset(
    ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal")
    + ("logical_and", "logical_or", "logical_not")
)
_TILE = 32
_FEW = 16  # rows or columns from which tiles are square, of kernels/move.cu


def unary(runtime: Runtime, x: Array, y: Array, *, op: str) -> None:
    """y = op(x), of one shape and dtype.

    op: negative exp log sqrt absolute sign reciprocal relu sigmoid tanh for floats, negative
    absolute sign for integers, logical_not from bool to bool. sign of NaN is 0; relu keeps NaN.
    """
    file, define = _module(op, x.dtype)
    axes = join("unary", y.shape, steps_of(y, y.shape), steps_of(x, y.shape))
    arguments = (strided(x), strided(y))
    walk(runtime, file, f"unary_{op}", axes, arguments, define, packs_of=(y, x))


def binary(runtime: Runtime, a: Operand, b: Operand, y: Array, *, op: str) -> None:
    """y = op(a, b), broadcast to y; one of a and b may be a number.

    op: add subtract multiply power maximum minimum; divide relu_backward sigmoid_backward
    tanh_backward for floats; floor_divide remainder for integers (division by 0 gives 0);
    comparisons and logical_and, logical_or with y bool. NaN propagates through maximum and minimum.
    Raises OverflowError when a number does not fit the arrays' integer dtype.
    """
    dtype = a.dtype if runtime.owns(a) else b.dtype  # type: ignore[union-attr]
    if op == "power" and dtype.kind == "f" and not runtime.owns(b):
        if b == 2:
            return binary(runtime, a, a, y, op="multiply")
        if b == 0.5:
            return unary(runtime, a, y, op="sqrt")
    file, define = _module(op, dtype)
    steps, arrays = [steps_of(y, y.shape)], [y]
    arguments: list[Any] = []
    for value in (a, b):
        step, pair = _operand(runtime, value, y, dtype)
        steps.append(step)
        arguments += pair
        arrays.append(None if pair[0] is None else value)
    axes = join("binary", y.shape, *steps)
    arguments.append(strided(y))
    walk(runtime, file, f"binary_{op}", axes, arguments, define, packs_of=arrays)


def where(runtime: Runtime, condition: Array, a: Operand, b: Operand, y: Array) -> None:
    """y = a where condition else b; everything broadcasts to y, a and b may be numbers."""
    name, word = word_of(y.dtype)
    steps = [steps_of(y, y.shape), steps_of(condition, y.shape)]
    arguments: list[Any] = [strided(condition)]
    arrays = [y, condition]
    for value in (a, b):
        step, (array, number) = _operand(runtime, value, y, y.dtype)
        steps.append(step)
        if array is not None:
            array = strided(array.array.view(word))
        arguments += (array, number.view(word))
        arrays.append(None if array is None else value)
    axes = join("where", y.shape, *steps)
    arguments.append(strided(y.view(word)))
    walk(runtime, "move.cu", "select", axes, arguments, {"word": name}, packs_of=arrays)


def copy(runtime: Runtime, x: Array, y: Array) -> None:
    """y = x, broadcast and cast: floats truncate towards zero, bool is x != 0."""
    axes = join("copy", y.shape, steps_of(y, y.shape), steps_of(x, y.shape))
    if x.dtype != y.dtype:
        types = {"source": C_TYPES[x.dtype], "target": C_TYPES[y.dtype]}
        walk(runtime, "cast.cu", "cast", axes, (strided(x), strided(y)), types, packs_of=(y, x))
        return
    same = x.shape == y.shape and x.flags.c_contiguous and y.flags.c_contiguous
    if y.itemsize == 8 and y.ndim and same:
        # Twice as many of four bytes: the module that any training has.
        x, y = x.view(np.uint32), y.view(np.uint32)
        axes = join("copy", y.shape, steps_of(y, y.shape), steps_of(x, y.shape))
    name, word = word_of(y.dtype)
    x, y = x.view(word), y.view(word)
    if not _transpose(runtime, x, y, axes, name):
        arguments = (strided(x), strided(y))
        walk(runtime, "move.cu", "copy", axes, arguments, {"word": name}, packs_of=(y, x))


def full(runtime: Runtime, y: Array, *, value: int | float | bool) -> None:
    """y = value."""
    name, word = word_of(y.dtype)
    number = scalar_of(value, y.dtype).view(word)
    axes = join("full", y.shape, steps_of(y, y.shape))
    arguments = (strided(y.view(word)), number)
    walk(runtime, "move.cu", "fill", axes, arguments, {"word": name}, packs_of=(y,))


def _module(op: str, dtype: np.dtype[Any]) -> tuple[str, dict[str, str]]:
    """The file that holds an operation for a dtype, and its define."""
    kind = C_TYPES[dtype]
    if op in _TO_BOOL:
        return "comparison.cu", {"element": kind}
    if dtype.kind == "f":
        return "elementwise.cu", {"real": kind}
    return "elementwise_integer.cu", {"integer": kind}


def _operand(
    runtime: Runtime, value: Operand, y: Array, dtype: np.dtype[Any]
) -> tuple[tuple[int, ...], tuple[Any, Any]]:
    """Steps along y's axes, and the launch arguments: array or None, and the number instead."""
    if runtime.owns(value):
        return steps_of(value, y.shape), (strided(value), dtype.type(0))
    return (0,) * y.ndim, (None, scalar_of(value, dtype))


def _transpose(runtime: Runtime, x: Array, y: Array, axes: Axes, word: str) -> bool:
    """Copy through tiles in shared memory, where x's neighbours lie along another axis than y's.

    Returns False, with nothing done, where the plain copy serves: joined axes other than
    ([batch,] row, column), or too few of them to fill the tiles.
    """
    if len(axes.sizes) not in (2, 3):
        return False
    batch, rows, columns = (1, *axes.sizes)[-3:]
    y_batch, y_row, y_column = (0, *axes.steps[0])[-3:]
    x_batch, x_row, x_column = (0, *axes.steps[1])[-3:]
    if batch > 65535 or y_column != 1 or x_row != 1:
        return False
    # Tiles have no packs; the module is that of the copies with them.
    module = {"index_t": index_type(axes.extent), "word": word, "WIDTH": 16 // y.itemsize}
    if min(rows, columns) >= _FEW and -(-rows // _TILE) <= 65535:
        runtime.launch(
            get("move.cu", "transpose", **module),
            (-(-columns // _TILE), -(-rows // _TILE), batch),
            (_TILE, THREADS // _TILE),
            *(strided(x), strided(y), rows, columns),
            *(x_batch, x_row, x_column, y_batch, y_row),
        )
        return True
    # Channels behind the pixels in y, or in x; they and the pixels must follow each other.
    interleave = columns < rows
    channels, pixels = (columns, rows) if interleave else (rows, columns)
    inner, channel_step = (y_row, x_column) if interleave else (x_column, y_row)
    if not 1 < channels < _FEW or inner != channels or pixels < _TILE:
        return False
    pitch = THREADS + (pow(channels, -1, 32) if channels % 2 else 32 // channels)
    runtime.launch(
        get("move.cu", "transpose_few", **module),
        (-(-pixels // THREADS), batch),
        (THREADS,),
        *(strided(x), strided(y), pixels, channels, x_batch, y_batch, channel_step, pitch),
        interleave,
    )
    return True
