"""2-D convolution (cross-correlation) and its gradients."""

from __future__ import annotations

from typing import Any

from gpucnn import backends
from gpucnn.core.autograd import Function
from gpucnn.core.dispatch import CHANNELS_LAST, Spec
from gpucnn.core.precision import current_precision
from gpucnn.core.primitive import primitive
from gpucnn.core.tensor import Tensor
from gpucnn.ops.activation import check_tensor
from gpucnn.ops.broadcasting import reduce, same_device
from gpucnn.ops.geometry import Conv2dGeometry, Pair
from gpucnn.ops.view import unsqueeze


@primitive
def conv2d(
    x: Tensor,
    w: Tensor,
    b: Tensor | None,
    addend: Tensor | None,
    *,
    geometry: Conv2dGeometry,
    relu: bool,
    precision: str,
) -> list[Spec]:
    """y[n,k,p,q] = b[k] + sum over c,r,s of w[k,c,r,s] x[n,c, p*stride - pad + r*dilation, ...].

    Plus `addend`, of y's shape; then, with `relu`, its positive part.
    """
    order = backends.get(x.device).preferred_order(geometry)
    return [Spec(geometry.y_shape, x.dtype, order)]


@primitive
def conv2d_backward_input(
    dy: Tensor,
    w: Tensor,
    addend: Tensor | None,
    mask: Tensor | None,
    *,
    geometry: Conv2dGeometry,
    precision: str,
) -> list[Spec]:
    """dx[n,c,h,w] = sum of w[k,c,r,s] dy[n,k,p,q] over all k,r,s,p,q that read x[n,c,h,w].

    Plus `addend`; then 0 where `mask` <= 0. Both have dx's shape.
    """
    order = backends.get(dy.device).preferred_order(geometry)
    return [Spec(geometry.x_shape, dy.dtype, order)]


@primitive
def conv2d_backward_weight(
    x: Tensor, dy: Tensor, *, geometry: Conv2dGeometry, precision: str, with_bias: bool
) -> list[Spec]:
    """dw[k,c,r,s] = sum over n,p,q of dy[n,k,p,q] x[n,c, p*stride - pad + r*dilation, ...].

    With the gradient of a bias, db[k] = sum over n,p,q of dy[n,k,p,q].
    """
    dw = Spec(geometry.w_shape, dy.dtype, CHANNELS_LAST)
    return [dw, Spec((geometry.k,), dy.dtype)] if with_bias else [dw]


class Conv2d(Function):
    """y = x * w + b, with the gradients of all three."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w: Tensor, b: Tensor | None, geometry: Conv2dGeometry
    ) -> Tensor:
        need_x, need_w = ctx.needs_input_grad[:2]
        ctx.save_for_backward(x if need_w else None, w if need_x else None)
        ctx.geometry, ctx.precision = geometry, current_precision()
        return conv2d(x, w, b, None, geometry=geometry, relu=False, precision=ctx.precision)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        need_x, need_w, need_b, _ = ctx.needs_input_grad
        how = {"geometry": ctx.geometry, "precision": ctx.precision}
        dw = db = dx = None
        if need_w and need_b:
            dw, db = conv2d_backward_weight(x, dy, with_bias=True, **how)
        elif need_w:
            dw = conv2d_backward_weight(x, dy, with_bias=False, **how)
        elif need_b:
            db = reduce(dy, op="sum", axes=(0, 2, 3), keepdims=False)
        if need_x:
            dx = conv2d_backward_input(dy, w, None, None, **how)
        return dx, dw, db, None


def check_operands(call: str, input: Any, weight: Any, bias: Any, features: int) -> None:
    """Refuse operands of different kinds, dtypes or devices, and a bias of the wrong length.

    Raises:
        TypeError: not tensors, not floats, or not of one dtype.
        ValueError: the bias is not one number an output feature.
        RuntimeError: they are on different devices.
    """
    check_tensor(call, weight, "weight")
    if bias is not None:
        check_tensor(call, bias, "bias")
    device, dtype = input.device, input.dtype
    if weight.device is not device or (bias is not None and bias.device is not device):
        same_device(call, input=input, weight=weight, bias=bias)
    if dtype.kind != "f":
        raise TypeError(f"{call}: input must be of floats, got {dtype}; use .float()")
    if weight.dtype != dtype:
        raise TypeError(f"{call}: input is {dtype} but weight is {weight.dtype}")
    if bias is None:
        return
    if bias.dtype != dtype:
        raise TypeError(f"{call}: input is {dtype} but bias is {bias.dtype}")
    if bias.shape != (features,):
        raise ValueError(f"{call}: bias must have shape ({features},), got {bias.shape}")


def convolve(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """2-D convolution as PyTorch defines it (the filter is not turned).

    Args:
        input: (N, C, H, W) or (C, H, W), float32 or float64.
        weight: (K, C / groups, R, S).
        bias: (K,) or None.
        stride, padding, dilation: an integer or (vertical, horizontal); padding also "same"
            (stride 1) or "valid".
        groups: channels and filters fall into this many independent groups.

    Returns:
        (N, K, P, Q) or (K, P, Q), P = (H + 2 padding - dilation (R - 1) - 1) // stride + 1.

    Raises:
        ValueError, TypeError, RuntimeError: shapes, dtypes or devices do not go together.
    """
    x = check_tensor("conv2d", input)
    if x.ndim == 3:
        return convolve(unsqueeze(x, 0), weight, bias, stride, padding, dilation, groups)[0]
    w = check_tensor("conv2d", weight, "weight")
    geometry = Conv2dGeometry.of("conv2d", x.shape, w.shape, stride, padding, dilation, groups)
    check_operands("conv2d", x, w, bias, geometry.k)
    return Conv2d.apply(x, w, bias, geometry)
