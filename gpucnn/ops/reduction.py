"""Sums, means, extrema and their positions, over all or some axes; and their gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from gpucnn.core.autograd import Function
from gpucnn.core.dispatch import Spec
from gpucnn.core.memory import as_dtype, copy, int64
from gpucnn.core.primitive import primitive
from gpucnn.core.tensor import Tensor
from gpucnn.ops.activation import check_tensor
from gpucnn.ops.broadcasting import reduce
from gpucnn.ops.convert import cast
from gpucnn.ops.elementwise import binary, maximum, minimum, where
from gpucnn.ops.view import axis_of, expand, reshape


class Extreme(NamedTuple):
    """What `max` and `min` over one axis return, as in PyTorch."""

    values: Tensor
    indices: Tensor


@primitive
def arg_reduce(x: Tensor, *, op: str, axis: int, keepdims: bool) -> list[Spec]:
    """y = the position of the maximum (argmax) or minimum: the first of them, or of the NaNs."""
    kept = (1,) if keepdims else ()
    return [Spec(x.shape[:axis] + kept + x.shape[axis + 1 :], int64)]


class Sum(Function):
    """Sum over axes; each element gets the gradient of its sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, axes: tuple[int, ...], keepdims: bool) -> Tensor:
        ctx.shape, ctx.axes = x.shape, axes
        return reduce(x, op="sum", axes=axes, keepdims=keepdims)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        return expand(_with_axes(dy, ctx.shape, ctx.axes), *ctx.shape), None, None


class ExtremeValue(Function):
    """The maximum or minimum over axes; elements that tie share the gradient equally."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, op: str, axes: tuple[int, ...], keepdims: bool) -> Tensor:
        y: Tensor = reduce(x, op=op, axes=axes, keepdims=keepdims)
        ctx.save_for_backward(x, y)
        ctx.axes = axes
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, y = ctx.saved_tensors
        full_y, full_dy = _with_axes(y, x.shape, ctx.axes), _with_axes(dy, x.shape, ctx.axes)
        # Where the extreme is NaN, the NaNs share; nothing else is unequal to itself.
        is_nan = binary(x, x, op="not_equal")
        chosen = binary(binary(x, full_y, op="equal"), is_nan, op="logical_or")
        ones = copy(chosen, dtype=dy.dtype, order=chosen.order)
        share = binary(full_dy, reduce(ones, op="sum", axes=ctx.axes, keepdims=True), op="divide")
        return where(chosen, share, 0), None, None, None


class ExtremeAt(Function):
    """The maximum or minimum along one axis with its position, which alone gets the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, op: str, axis: int, keepdims: bool) -> tuple[Tensor, Tensor]:
        y = reduce(x, op=op, axes=(axis,), keepdims=keepdims)
        at = arg_reduce(x, op=f"arg{op}", axis=axis, keepdims=keepdims)
        ctx.save_for_backward(at)
        ctx.axis, ctx.shape = axis, x.shape
        return y, at

    @staticmethod
    def backward(ctx: Any, dy: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        from gpucnn.ops.creation import arange

        (at,) = ctx.saved_tensors
        position = arange(ctx.shape[ctx.axis], device=dy.device)
        position = position.reshape(-1, *(1,) * (len(ctx.shape) - ctx.axis - 1))
        chosen = binary(_with_axes(at, ctx.shape, (ctx.axis,)), position, op="equal")
        return where(chosen, _with_axes(dy, ctx.shape, (ctx.axis,)), 0), None, None, None


def _with_axes(y: Tensor, shape: tuple[int, ...], axes: tuple[int, ...]) -> Tensor:
    """y with the reduced axes back as axes of length one."""
    return reshape(y, *(1 if i in axes else n for i, n in enumerate(shape)))


def axes_of(call: str, dim: int | Sequence[int] | None, ndim: int) -> tuple[int, ...]:
    """The axes that `dim` names; all of them for None (or an empty sequence, as in PyTorch)."""
    if dim is None or (isinstance(dim, (tuple, list)) and not dim):
        return tuple(range(ndim))
    given = tuple(dim) if isinstance(dim, (tuple, list)) else (dim,)
    axes = tuple(sorted(axis_of(call, d, ndim) for d in given))
    if len(set(axes)) != len(axes):
        raise ValueError(f"{call}: dim {given} names an axis twice")
    return axes if ndim else ()


def sum(
    input: Tensor,
    dim: int | Sequence[int] | None = None,
    keepdim: bool = False,
    *,
    dtype: Any = None,
) -> Tensor:
    """The sum over `dim` (all axes when None), of the elements as `dtype`.

    Integers and bools add up as int64 when it is None.
    """
    x = check_tensor("sum", input)
    if dtype is not None:
        x = cast(x, as_dtype("sum", dtype))
    if x.dtype.kind != "f":
        x = cast(x, int64)
    return Sum.apply(x, axes_of("sum", dim, x.ndim), keepdim)


def mean(
    input: Tensor,
    dim: int | Sequence[int] | None = None,
    keepdim: bool = False,
    *,
    dtype: Any = None,
) -> Tensor:
    """The mean over `dim` (all axes when None), of the elements as `dtype`; of none it is NaN."""
    x = check_tensor("mean", input)
    if dtype is not None:
        x = cast(x, as_dtype("mean", dtype))
    if x.dtype.kind != "f":
        raise TypeError(f"mean: the tensor must be of floats, got {x.dtype}; use .float()")
    axes = axes_of("mean", dim, x.ndim)
    count = math.prod(x.shape[axis] for axis in axes)
    total: Tensor = Sum.apply(x, axes, keepdim)
    return total / count if count else total * math.nan


def var(
    input: Tensor,
    dim: int | Sequence[int] | None = None,
    unbiased: bool = True,
    keepdim: bool = False,
) -> Tensor:
    """The variance over `dim`, divided by n - 1 (or by n if not `unbiased`)."""
    axes = axes_of("var", dim, check_tensor("var", input).ndim)
    if input.dtype.kind != "f":
        raise TypeError(f"var: the tensor must be of floats, got {input.dtype}; use .float()")
    count = math.prod(input.shape[axis] for axis in axes) - bool(unbiased)
    centred = input - mean(input, axes, True)
    total = sum(centred * centred, axes, keepdim)
    return total / count if count > 0 else total * math.nan


def _extreme(op: str) -> Any:
    def call(input: Tensor, dim: int | Tensor | None = None, keepdim: bool = False) -> Any:
        x = check_tensor(op, input)
        if dim is None:
            _check_not_empty(op, x, tuple(range(x.ndim)))
            return ExtremeValue.apply(x, op, tuple(range(x.ndim)), False)
        if isinstance(dim, Tensor):
            return (maximum if op == "max" else minimum)(x, dim)
        axis = axis_of(op, dim, x.ndim)
        if x.ndim == 0:
            return call(x.reshape(1), 0, False)
        _check_not_empty(op, x, (axis,))
        return Extreme(*ExtremeAt.apply(x, op, axis, keepdim))

    call.__name__ = op
    call.__doc__ = (
        f"The {op}imum of all elements; over axis `dim`, with the positions: (values, indices); "
        "or of two tensors, element by element."
    )
    return call


def _check_not_empty(call: str, x: Tensor, axes: tuple[int, ...]) -> None:
    if any(x.shape[axis] == 0 for axis in axes):
        raise ValueError(f"{call}: no elements to choose from in shape {x.shape}")


max = _extreme("max")
min = _extreme("min")


def _amax(op: str) -> Any:
    def call(
        input: Tensor, dim: int | Sequence[int] | None = None, keepdim: bool = False
    ) -> Tensor:
        axes = axes_of(f"a{op}", dim, check_tensor(f"a{op}", input).ndim)
        _check_not_empty(f"a{op}", input, axes)
        return ExtremeValue.apply(input, op, axes, keepdim)

    call.__name__ = f"a{op}"
    call.__doc__ = f"The {op}imum over `dim` (all axes when None)."
    return call


amax = _amax("max")
amin = _amax("min")


def _arg(op: str) -> Any:
    def call(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
        x = check_tensor(op, input).detach()
        if dim is None:
            _check_not_empty(op, x, tuple(range(x.ndim)))
            position: Tensor = arg_reduce(reshape(x, -1), op=op, axis=0, keepdims=False)
            return position.reshape((1,) * x.ndim) if keepdim else position
        axis = axis_of(op, dim, x.ndim)
        if x.ndim == 0:
            return call(x)
        _check_not_empty(op, x, (axis,))
        return arg_reduce(x, op=op, axis=axis, keepdims=keepdim)

    call.__name__ = op
    call.__doc__ = f"The position of the {op[3:]}imum along `dim`, or in the flattened tensor."
    return call


argmax = _arg("argmax")
argmin = _arg("argmin")
