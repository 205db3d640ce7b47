"""Shapes: reshape, permute, expand, concatenate and pad; and their gradients.

A view shares its buffer; only what memory order forbids is copied.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpucnn import backends
from gpucnn.core.autograd import Function, is_grad_enabled
from gpucnn.core.dispatch import Spec
from gpucnn.core.memory import copy
from gpucnn.core.primitive import primitive
from gpucnn.core.tensor import Tensor
from gpucnn.ops.activation import check_tensor
from gpucnn.ops.broadcasting import promote, same_device, unbroadcast
from gpucnn.ops.convert import cast


@primitive
def concatenate(*xs: Tensor, axis: int) -> list[Spec]:
    """y = the arrays xs one after the other along `axis`."""
    shape = list(xs[0].shape)
    shape[axis] = sum(x.shape[axis] for x in xs)
    return [Spec(tuple(shape), xs[0].dtype, xs[0].order)]


@primitive
def pad(x: Tensor, *, padding: tuple[tuple[int, int], ...], value: float) -> list[Spec]:
    """y = x with (before, after) elements of `value` added to each axis."""
    shape = tuple(n + before + after for n, (before, after) in zip(x.shape, padding))
    return [Spec(shape, x.dtype, x.order)]


class Reshape(Function):
    """The same elements in C order under another shape."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        ctx.shape, ctx.order = x.shape, x.order
        return _reshape(x, shape)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        dx = _reshape(dy, ctx.shape)
        # Behind a flatten the gradient arrives in C order; the layers before it want their own.
        same = ctx.order is None or dx.order == ctx.order
        return dx if same else copy(dx, order=ctx.order), None


class Permute(Function):
    """The axes in another order; a view."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, axes: tuple[int, ...]) -> Tensor:
        ctx.axes = axes
        return x.view_of(x.data.transpose(axes))

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        inverse = sorted(range(len(ctx.axes)), key=ctx.axes.__getitem__)
        return dy.view_of(dy.data.transpose(tuple(inverse))), None


class Expand(Function):
    """Axes of length one repeated without copying."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        ctx.shape = x.shape
        lead = len(shape) - x.ndim
        strides = (0,) * lead + tuple(
            stride if old == new else 0
            for stride, old, new in zip(x.data.strides, x.shape, shape[lead:])
        )
        return x.view_of(backends.get(x.device).as_strided(x.data, shape, strides))

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        return unbroadcast(dy, ctx.shape), None


class Concatenate(Function):
    """Tensors one after the other; each gets its slice of the gradient."""

    @staticmethod
    def forward(ctx: Any, axis: int, *xs: Tensor) -> Tensor:
        ctx.axis, ctx.lengths = axis, [x.shape[axis] for x in xs]
        return concatenate(*xs, axis=axis)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        gradients: list[Tensor | None] = [None]
        start = 0
        for length in ctx.lengths:
            key = (slice(None),) * ctx.axis + (slice(start, start + length),)
            gradients.append(dy.view_of(dy.data[key]))
            start += length
        return tuple(gradients)


class Pad(Function):
    """Constant padding; the gradient is the slice inside it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, padding: tuple[tuple[int, int], ...], value: float) -> Tensor:
        ctx.inside = tuple(slice(before, before + n) for n, (before, _) in zip(x.shape, padding))
        return pad(x, padding=padding, value=value)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        return dy.view_of(dy.data[ctx.inside]), None, None


def _reshape(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    if not x.data.flags.c_contiguous and not _is_view(x.shape, x.data.strides, shape):
        x = copy(x)
    return x.view_of(x.data.reshape(shape))


def _is_view(shape: Sequence[int], strides: Sequence[int], new: Sequence[int]) -> bool:
    """Whether elements of these strides can be seen under the shape `new` without a copy.

    Walks both shapes from the left, matching groups of axes of equal size; a group of old axes
    must lie in memory like one axis.
    """
    if math.prod(shape) == 0:
        return True
    old = [(n, s) for n, s in zip(shape, strides) if n != 1]
    wanted = [n for n in new if n != 1]
    i = j = 0
    while i < len(old) and j < len(wanted):
        size_old, size_new, first = old[i][0], wanted[j], i
        while size_old != size_new:
            if size_old < size_new:
                i += 1
                size_old *= old[i][0]
            else:
                j += 1
                size_new *= wanted[j]
        for k in range(first, i):
            if old[k][1] != old[k + 1][0] * old[k + 1][1]:
                return False
        i += 1
        j += 1
    return True


def sizes(call: str, given: tuple[Any, ...]) -> tuple[int, ...]:
    """`f(2, 3)` and `f((2, 3))` mean the same."""
    values = given[0] if len(given) == 1 and isinstance(given[0], (tuple, list)) else given
    if not all(isinstance(v, (int, np.integer)) for v in values):
        raise TypeError(f"{call}: sizes must be integers, got {values}")
    return tuple(int(v) for v in values)


def axis_of(call: str, dim: int, ndim: int) -> int:
    """The axis as a number from 0.

    Raises:
        IndexError: the tensor has no such axis.
    """
    limit = max(ndim, 1)
    if not isinstance(dim, (int, np.integer)):
        raise TypeError(f"{call}: dim must be an integer, got {dim!r}")
    if not -limit <= dim < limit:
        raise IndexError(f"{call}: dim {dim} is out of range for {ndim} dimensions")
    return int(dim) % limit


def reshape(input: Tensor, *shape: Any) -> Tensor:
    """The same elements under another shape; one size may be -1. A view where memory allows."""
    wanted = sizes("reshape", shape)
    count = check_tensor("reshape", input).numel()
    known = math.prod(s for s in wanted if s != -1)
    if wanted.count(-1) == 1 and known and count % known == 0:
        wanted = tuple(count // known if s == -1 else s for s in wanted)
    if any(s < 0 for s in wanted) or math.prod(wanted) != count:
        raise ValueError(f"reshape: shape {wanted} does not fit {input.shape} ({count} elements)")
    return _as_shape(input, wanted)


def _as_shape(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The same elements under a shape of as many."""
    if shape == x.shape:
        return x if is_grad_enabled() else x.detach()
    y: Tensor = Reshape.apply(x, shape)
    return y


def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """The axes from start_dim to end_dim made one, in NCHW order by value."""
    check_tensor("flatten", input)
    if input.ndim == 0:
        return reshape(input, 1)
    first = axis_of("flatten", start_dim, input.ndim)
    last = axis_of("flatten", end_dim, input.ndim)
    if first > last:
        raise ValueError(f"flatten: start_dim {start_dim} comes after end_dim {end_dim}")
    shape = input.shape
    joined = math.prod(shape[first : last + 1])
    return _as_shape(input, (*shape[:first], joined, *shape[last + 1 :]))


def permute(input: Tensor, *dims: Any) -> Tensor:
    """The axes in the order `dims`; a view."""
    ndim = check_tensor("permute", input).ndim
    axes = tuple(axis_of("permute", d, ndim) for d in sizes("permute", dims))
    if sorted(axes) != list(range(input.ndim)):
        raise ValueError(f"permute: {axes} is not a permutation of {input.ndim} dimensions")
    return Permute.apply(input, axes)


def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """Two axes exchanged; a view."""
    ndim = check_tensor("transpose", input).ndim
    a, b = axis_of("transpose", dim0, ndim), axis_of("transpose", dim1, ndim)
    exchanged = {a: b, b: a}
    return Permute.apply(input, tuple(exchanged.get(i, i) for i in range(ndim)))


def t(input: Tensor) -> Tensor:
    """The transpose of a matrix; a vector or a scalar as it is."""
    if input.ndim > 2:
        raise ValueError(f"t: needs at most two dimensions, got {input.shape}; use .transpose()")
    return permute(input, *reversed(range(input.ndim)))


def squeeze(input: Tensor, dim: int | None = None) -> Tensor:
    """Without the axes of length one, or without axis `dim` if its length is one."""
    chosen = range(input.ndim) if dim is None else (axis_of("squeeze", dim, input.ndim),)
    return reshape(input, *(n for i, n in enumerate(input.shape) if i not in chosen or n != 1))


def unsqueeze(input: Tensor, dim: int) -> Tensor:
    """With a new axis of length one at `dim`."""
    position = axis_of("unsqueeze", dim, input.ndim + 1)
    return reshape(input, *input.shape[:position], 1, *input.shape[position:])


def expand(input: Tensor, *shape: Any) -> Tensor:
    """Axes of length one repeated to `shape` (-1 keeps a length), without a copy."""
    wanted = list(sizes("expand", shape))
    lead = len(wanted) - input.ndim
    for i, n in enumerate(input.shape):
        if lead >= 0 and wanted[lead + i] == -1:
            wanted[lead + i] = n
    fits = lead >= 0 and all(n in (1, w) for n, w in zip(input.shape, wanted[lead:]))
    if not fits or any(w < 0 for w in wanted):
        raise ValueError(f"expand: shape {input.shape} does not expand to {tuple(wanted)}")
    return Expand.apply(input, tuple(wanted))


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """The tensors one after the other along `dim`; all other sizes must agree."""
    if not tensors:
        raise ValueError("cat: needs at least one tensor")
    xs = [check_tensor("cat", t, f"tensors[{i}]") for i, t in enumerate(tensors)]
    same_device("cat", **{f"tensors[{i}]": x for i, x in enumerate(xs)})
    dtype = functools.reduce(promote, (x.dtype for x in xs))
    # As in PyTorch, a vector of nothing goes with any shape: loops begin with one.
    full = [x for x in xs if x.shape != (0,)] or xs[:1]
    axis = axis_of("cat", dim, full[0].ndim)
    rest = [x.shape[:axis] + x.shape[axis + 1 :] for x in full]
    if any(x.ndim != max(full[0].ndim, 1) for x in full) or any(r != rest[0] for r in rest):
        listed = ", ".join(str(x.shape) for x in xs)
        raise ValueError(f"cat: shapes must agree except in dim {axis}, got {listed}")
    return Concatenate.apply(axis, *(cast(x, dtype) for x in full))


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors of one shape along a new axis `dim`."""
    if not tensors:
        raise ValueError("stack: needs at least one tensor")
    return cat([unsqueeze(t, dim) for t in tensors], axis_of("stack", dim, tensors[0].ndim + 1))
