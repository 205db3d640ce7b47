"""Maximum, average and adaptive average pooling, and their gradients."""

from __future__ import annotations

from typing import Any

from gpucnn.core.autograd import Function
from gpucnn.core.dispatch import Order, Spec
from gpucnn.core.memory import int64
from gpucnn.core.primitive import primitive
from gpucnn.core.tensor import Tensor
from gpucnn.ops.activation import check_tensor
from gpucnn.ops.geometry import Pair, Pool2dGeometry, pair
from gpucnn.ops.view import unsqueeze


@primitive
def max_pool2d(x: Tensor, *, geometry: Pool2dGeometry, with_argmax: bool) -> list[Spec]:
    """y = the maximum of each window; `with_argmax` its position r*S + s within the window too."""
    y = Spec(geometry.y_shape, x.dtype, x.order)
    return [y, y._replace(dtype=geometry.argmax_dtype)] if with_argmax else [y]


@primitive
def max_pool2d_backward(
    dy: Tensor, argmax: Tensor, y: Tensor | None, *, geometry: Pool2dGeometry
) -> list[Spec]:
    """dx = for each input element, the sum of dy over the windows whose maximum it was.

    Where y, the maxima behind a ReLU, is given, dy counts for 0 where y <= 0.
    """
    return [Spec(geometry.x_shape, dy.dtype, argmax.order)]


@primitive
def max_pool2d_indices(argmax: Tensor, *, geometry: Pool2dGeometry) -> list[Spec]:
    """indices = positions h*W + w in the input plane, from positions within the window."""
    return [Spec(argmax.shape, int64, argmax.order)]


@primitive
def avg_pool2d(x: Tensor, *, geometry: Pool2dGeometry) -> list[Spec]:
    """y = the sum of each window divided by its divisor (see `avg_pool`)."""
    return [Spec(geometry.y_shape, x.dtype, x.order)]


@primitive
def avg_pool2d_backward(dy: Tensor, *, geometry: Pool2dGeometry, order: Order) -> list[Spec]:
    """dx = for each input element, the sum of dy / divisor over the windows that hold it."""
    return [Spec(geometry.x_shape, dy.dtype, order)]


@primitive
def adaptive_avg_pool2d(x: Tensor, *, shape: tuple[int, ...]) -> list[Spec]:
    """y[p, q] = the mean of rows [p H / P] to [(p + 1) H / P] and columns likewise."""
    return [Spec(shape, x.dtype, x.order)]


@primitive
def adaptive_avg_pool2d_backward(dy: Tensor, *, shape: tuple[int, ...], order: Order) -> list[Spec]:
    """dx = for each input element, the sum of dy / window size over the windows that hold it."""
    return [Spec(shape, dy.dtype, order)]


class MaxPool2d(Function):
    """Maxima of windows; the gradient goes to the maximum alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, geometry: Pool2dGeometry, indices: bool) -> Any:
        if not (indices or ctx.needs_input_grad[0]):
            return max_pool2d(x, geometry=geometry, with_argmax=False)
        y, argmax = max_pool2d(x, geometry=geometry, with_argmax=True)
        ctx.save_for_backward(argmax)
        ctx.geometry = geometry
        return (y, max_pool2d_indices(argmax, geometry=geometry)) if indices else y

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        (argmax,) = ctx.saved_tensors
        return max_pool2d_backward(dy, argmax, None, geometry=ctx.geometry), None, None


class AvgPool2d(Function):
    """Means of windows; each element of a window gets an equal share of its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, geometry: Pool2dGeometry) -> Tensor:
        ctx.geometry, ctx.order = geometry, x.order
        return avg_pool2d(x, geometry=geometry)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        return avg_pool2d_backward(dy, geometry=ctx.geometry, order=ctx.order), None


class AdaptiveAvgPool2d(Function):
    """Means of windows that divide the input evenly into a given number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        ctx.shape, ctx.order = x.shape, x.order
        return adaptive_avg_pool2d(x, shape=shape)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        return adaptive_avg_pool2d_backward(dy, shape=ctx.shape, order=ctx.order), None


def _images(call: str, input: Any) -> tuple[Tensor, bool]:
    """The input as (N, C, H, W), and whether it came as (C, H, W)."""
    x = check_tensor(call, input)
    if x.dtype.kind != "f":
        raise TypeError(f"{call}: input must be of floats, got {x.dtype}; use .float()")
    return (unsqueeze(x, 0), True) if x.ndim == 3 else (x, False)


def max_pool(
    input: Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    dilation: Pair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The maximum of each window.

    Ties go to the first element in row-major order, NaN is the maximum of its window, padding is
    never chosen, as in PyTorch.

    Args:
        input: (N, C, H, W) or (C, H, W).
        kernel_size, stride, padding, dilation: integers or (vertical, horizontal); the stride is
            the kernel size when None.
        ceil_mode: count a last window that the input fills only in part.
        return_indices: also return positions h*W + w in the input plane, int64.

    Raises:
        ValueError, TypeError: the window does not fit, or an argument is of the wrong kind.
    """
    x, single = _images("max_pool2d", input)
    geometry = Pool2dGeometry.of(
        "max_pool2d", x.shape, kernel_size, stride, padding, dilation, ceil_mode
    )
    result = MaxPool2d.apply(x, geometry, return_indices)
    if not single:
        return result
    return (result[0][0], result[1][0]) if return_indices else result[0]


def avg_pool(
    input: Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """The mean of each window.

    The divisor is the number of elements of the window within the padded input
    (`count_include_pad`) or within the input itself, or `divisor_override`.

    Args and errors as `max_pool`.
    """
    x, single = _images("avg_pool2d", input)
    geometry = Pool2dGeometry.of(
        "avg_pool2d", x.shape, kernel_size, stride, padding, 1, ceil_mode, count_include_pad,
        divisor_override,
    )  # fmt: skip
    y: Tensor = AvgPool2d.apply(x, geometry)
    return y[0] if single else y


def adaptive_avg_pool(input: Tensor, output_size: Any) -> Tensor:
    """Mean pooling to a given output size, whatever the input size.

    Args:
        input: (N, C, H, W) or (C, H, W).
        output_size: P, or (P, Q); None keeps the input's length.

    Raises:
        ValueError, TypeError: a size that is no positive integer.
    """
    call = "adaptive_avg_pool2d"
    x, single = _images(call, input)
    if x.ndim != 4:
        raise ValueError(f"{call}: input must be (N, C, H, W) or (C, H, W), got {x.shape}")
    wanted = output_size if isinstance(output_size, (tuple, list)) else (output_size, output_size)
    if len(wanted) != 2:
        raise ValueError(f"{call}: output_size must be one size or two, got {output_size!r}")
    filled = [n if size is None else size for size, n in zip(wanted, x.shape[2:])]
    p, q = pair(call, "output_size", filled, 0)
    if (x.shape[2] == 0 or x.shape[3] == 0) and p * q:
        raise ValueError(f"{call}: input {x.shape} has no elements to average")
    y: Tensor = AdaptiveAvgPool2d.apply(x, (x.shape[0], x.shape[1], p, q))
    return y[0] if single else y
