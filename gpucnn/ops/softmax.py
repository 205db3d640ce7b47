"""Softmax and its logarithm along one axis."""

from __future__ import annotations

from typing import Any

from gpucnn.core.autograd import Function
from gpucnn.core.dispatch import Spec
from gpucnn.core.memory import as_dtype
from gpucnn.core.primitive import primitive
from gpucnn.core.tensor import Tensor
from gpucnn.ops.activation import check_tensor
from gpucnn.ops.convert import cast
from gpucnn.ops.view import axis_of, reshape


@primitive
def softmax(x: Tensor, *, axis: int, log: bool) -> list[Spec]:
    """y = exp(x - m) / sum of exp(x - m), m the maximum along the axis; or its logarithm."""
    return [Spec(x.shape, x.dtype, x.order)]


@primitive
def softmax_backward(dy: Tensor, y: Tensor, *, axis: int, log: bool) -> list[Spec]:
    """dx = y (dy - sum of dy y); of the logarithm dy - exp(y) sum of dy."""
    return [Spec(y.shape, y.dtype, y.order)]


class Softmax(Function):
    """Softmax or log-softmax along an axis."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: int, log: bool) -> Tensor:
        y: Tensor = softmax(x, axis=axis, log=log)
        ctx.save_for_backward(y)
        ctx.axis, ctx.log = axis, log
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (y,) = ctx.saved_tensors
        return softmax_backward(dy, y, axis=ctx.axis, log=ctx.log), None, None


def softmax_of(input: Tensor, dim: int | None = None, dtype: Any = None) -> Tensor:
    """exp(x) / sum of exp(x) along `dim`, computed without overflow."""
    return along_axis("softmax", input, dim, dtype, False)


def log_softmax_of(input: Tensor, dim: int | None = None, dtype: Any = None) -> Tensor:
    """log(softmax(x)) along `dim`, computed without overflow."""
    return along_axis("log_softmax", input, dim, dtype, True)


def along_axis(call: str, input: Tensor, dim: int | None, dtype: Any, log: bool) -> Tensor:
    """Softmax (or its logarithm) of `input` along `dim`.

    Raises:
        TypeError: no `dim`, or the input is not of floats.
        IndexError: the tensor has no such axis.
    """
    x = check_tensor(call, input)
    if dtype is not None:
        x = cast(x, as_dtype(call, dtype))
    if x.dtype.kind != "f":
        raise TypeError(f"{call}: input must be of floats, got {x.dtype}; use .float()")
    if dim is None:
        raise TypeError(f"{call}: dim must be given, the axis whose values add up to 1")
    axis = axis_of(call, dim, x.ndim)
    if x.ndim == 0:
        return reshape(Softmax.apply(reshape(x, 1), 0, log))
    return Softmax.apply(x, axis, log)
