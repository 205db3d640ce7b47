"""Moving elements on the GPU: gather, its scatter-add gradient, concatenation, padding."""

from __future__ import annotations

import numpy as np

from gpucnn.backends.gpu.elementwise import copy, full
from gpucnn.backends.gpu.iteration import C_TYPES, extent_of, join, steps_of, walk, word_of
from gpucnn.backends.gpu.kernel import strided
from gpucnn.backends.gpu.runtime import Array, Runtime


def take(runtime: Runtime, x: Array, index: Array, y: Array, *, axis: int) -> None:
    """y = x with `axis` replaced by its elements at `index` (M,); negative counts from the end.

    A kernel cannot raise: an index outside the axis takes NaN (for integers -1, 255, for bools
    False).
    """
    name, word = word_of(y.dtype)
    axis %= x.ndim
    x_steps = steps_of(x, x.shape)
    others = tuple(0 if i == axis else step for i, step in enumerate(x_steps))
    along = tuple(index.strides[0] // index.itemsize if i == axis else 0 for i in range(y.ndim))
    axes = join("take", y.shape, steps_of(y, y.shape), others, along)
    outside = 0 if y.dtype == np.bool_ else np.iinfo(word).max
    arguments = (strided(x.view(word)), strided(index), strided(y.view(word)))
    values = (*arguments, x.shape[axis], x_steps[axis], outside)
    walk(runtime, "move.cu", "take", axes, values, {"word": name}, reach=extent_of(x))


def take_backward(runtime: Runtime, dy: Array, index: Array, dx: Array, *, axis: int) -> None:
    """dx = 0, then dx[index[m]] += dy[m] along `axis`, for m ascending.

    An index outside the axis adds nothing. The work is dx.size * index.size.
    """
    axis %= dx.ndim
    dy_steps = steps_of(dy, dy.shape)
    others = tuple(0 if i == axis else step for i, step in enumerate(dy_steps))
    position = tuple(int(i == axis) for i in range(dx.ndim))
    axes = join("take_backward", dx.shape, steps_of(dx, dx.shape), others, position)
    if not index.flags.c_contiguous:
        dense = runtime.empty(index.shape, index.dtype)
        copy(runtime, index, dense)
        index = dense
    values = (strided(dy), index, strided(dx), index.size, dx.shape[axis], dy_steps[axis])
    define = {"real": C_TYPES[dx.dtype]}
    file = "take_backward.cu"
    walk(runtime, file, "take_backward", axes, values, define, reach=extent_of(dy))


def concatenate(runtime: Runtime, *arrays: Array, axis: int) -> None:
    """The last array = all before it one after the other along `axis`."""
    *xs, y = arrays
    before = (slice(None),) * (axis % y.ndim)
    start = 0
    for x in xs:
        stop = start + x.shape[axis]
        copy(runtime, x, y[before + (slice(start, stop),)])
        start = stop


def pad(
    runtime: Runtime, x: Array, y: Array, *, padding: tuple[tuple[int, int], ...], value: float
) -> None:
    """y = x with padding[i] = (before, after) elements of `value` around each axis i."""
    full(runtime, y, value=value)
    inside = tuple(slice(low, low + size) for (low, _), size in zip(padding, x.shape, strict=True))
    copy(runtime, x, y[inside])
