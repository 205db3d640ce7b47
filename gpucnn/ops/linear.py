"""Matrix products: matmul and linear."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpucnn.core.autograd import Function
from gpucnn.core.dispatch import Spec
from gpucnn.core.precision import current_precision
from gpucnn.core.primitive import primitive
from gpucnn.core.tensor import Tensor
from gpucnn.ops.activation import check_tensor
from gpucnn.ops.broadcasting import operand, reduce, same_device, unbroadcast
from gpucnn.ops.conv import check_operands
from gpucnn.ops.view import reshape


@primitive
def matmul(
    a: Tensor,
    b: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    *,
    relu: bool,
    precision: str,
) -> list[Spec]:
    """y (..., M, N) = a (..., M, K) b (..., K, N) + bias (N,); leading axes broadcast.

    With `relu` its positive part; then 0 where `mask`, of y's shape, is <= 0.
    """
    rows, columns = a.shape[-2], b.shape[-1]
    if a.ndim == b.ndim == 2:
        return [Spec((rows, columns), a.dtype)]
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return [Spec((*batch, rows, columns), a.dtype)]


@primitive
def linear_backward_weight(x: Tensor, dy: Tensor, *, precision: str, with_bias: bool) -> list[Spec]:
    """dw (O, I) = dy (M, O)^T x (M, I), and for a bias db (O) = the sum of dy's rows."""
    dw = Spec((dy.shape[1], x.shape[1]), dy.dtype)
    return [dw, Spec(dy.shape[1:], dy.dtype)] if with_bias else [dw]


def _multiply(a: Tensor, b: Tensor, bias: Tensor | None, precision: str) -> Tensor:
    y: Tensor = matmul(a, b, bias, None, relu=False, precision=precision)
    return y


def _transposed(x: Tensor) -> Tensor:
    """The last two axes exchanged; a view."""
    return x.view_of(x.data.swapaxes(-1, -2))


class Matmul(Function):
    """y = a b; da = dy b^T, db = a^T dy."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.precision = current_precision()
        return _multiply(a, b, None, ctx.precision)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        a, b = ctx.saved_tensors
        need_a, need_b = ctx.needs_input_grad
        da = db = None
        if need_a:
            da = unbroadcast(_multiply(dy, _transposed(b), None, ctx.precision), a.shape)
        if need_b:
            db = unbroadcast(_multiply(_transposed(a), dy, None, ctx.precision), b.shape)
        return da, db


class Linear(Function):
    """y (M, N) = x (M, K) w^T + b; dx = dy w, dw = dy^T x, db = the sum of dy's rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.precision = current_precision()
        return _multiply(x, _transposed(w), b, ctx.precision)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        need_x, need_w, need_b = ctx.needs_input_grad
        dw = db = dx = None
        if need_w and need_b:
            dw, db = linear_backward_weight(x, dy, precision=ctx.precision, with_bias=True)
        elif need_w:
            dw = linear_backward_weight(x, dy, precision=ctx.precision, with_bias=False)
        elif need_b:
            db = reduce(dy, op="sum", axes=(0,), keepdims=False)
        if need_x:
            dx = _multiply(dy, w, None, ctx.precision)
        return dx, dw, db


def product(input: Tensor, other: Tensor) -> Tensor:
    """The matrix product with NumPy's rules: vectors are rows or columns, leading axes broadcast.

    Raises:
        ValueError: the inner sizes differ, or an operand is 0-d.
        TypeError: an operand is not a float tensor.
        RuntimeError: they are on different devices.
    """
    a = check_tensor("matmul", operand("matmul", input))
    b = check_tensor("matmul", operand("matmul", other), "other")
    same_device("matmul", input=a, other=b)
    shapes = f"(input {a.shape}, other {b.shape})"
    if a.ndim == 0 or b.ndim == 0:
        raise ValueError(f"matmul: operands must have at least one dimension {shapes}")
    if a.dtype != b.dtype or a.dtype.kind != "f":
        raise TypeError(
            f"matmul: operands must be of one float dtype, got {a.dtype} and {b.dtype}; use .to()"
        )
    rows, columns = a.ndim == 1, b.ndim == 1
    left = reshape(a, 1, -1) if rows else a
    right = reshape(b, -1, 1) if columns else b
    if left.shape[-1] != right.shape[-2]:
        raise ValueError(
            f"matmul: inner sizes {left.shape[-1]} and {right.shape[-2]} differ {shapes}"
        )
    try:
        np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    except ValueError:
        raise ValueError(f"matmul: leading axes do not broadcast {shapes}") from None
    y: Tensor = Matmul.apply(left, right)
    if rows or columns:
        shape = y.shape[: -2 if rows else -1] + (() if columns else y.shape[-1:])
        y = reshape(y, *shape)
    return y


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """y = input weight^T + bias.

    Args:
        input: (..., in_features).
        weight: (out_features, in_features).
        bias: (out_features,) or None.

    Raises:
        ValueError, TypeError, RuntimeError: shapes, dtypes or devices do not go together.
    """
    x, w = check_tensor("linear", input), check_tensor("linear", weight, "weight")
    if w.ndim != 2 or x.ndim == 0 or x.shape[-1] != w.shape[1]:
        raise ValueError(
            f"linear: input must end in the {w.shape[-1] if w.ndim else '?'} features of weight "
            f"(input {x.shape}, weight {w.shape})"
        )
    check_operands("linear", x, w, bias, w.shape[0])
    rows = x if x.ndim == 2 else reshape(x, math.prod(x.shape[:-1]), x.shape[-1])
    y: Tensor = Linear.apply(rows, w, bias)
    return y if x.ndim == 2 else reshape(y, *x.shape[:-1], w.shape[0])
