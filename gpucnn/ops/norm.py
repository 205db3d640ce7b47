"""Batch normalisation (Ioffe and Szegedy 2015) over all axes but the channels."""

from __future__ import annotations

import math
from typing import Any

from gpucnn.core.autograd import Function
from gpucnn.core.dispatch import Spec
from gpucnn.core.memory import full
from gpucnn.core.primitive import mutating, primitive
from gpucnn.core.tensor import Tensor
from gpucnn.ops.activation import check_tensor
from gpucnn.ops.broadcasting import same_device


@mutating(1, 2)
def batch_norm_statistics(
    x: Tensor, running_mean: Tensor | None, running_variance: Tensor | None, *, momentum: float
) -> list[Spec]:
    """mean (C,) and biased variance (C,) of x (N, C, ...) over all axes but the channels.

    The running statistics move: running = (1 - momentum) running + momentum batch, the variance
    times M / (M - 1) for M elements a channel.
    """
    spec = Spec(x.shape[1:2], x.dtype)
    return [spec, spec]


@primitive
def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    addend: Tensor | None,
    *,
    eps: float,
    relu: bool,
) -> list[Spec]:
    """y = (x - mean) / sqrt(variance + eps) * weight + bias, channel by channel.

    Plus `addend`, of y's shape; then, with `relu`, its positive part.
    """
    return [Spec(x.shape, x.dtype, x.order)]


@primitive
def batch_norm_backward(
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    weight: Tensor | None,
    y: Tensor | None,
    *,
    eps: float,
    training: bool,
    with_addend: bool,
) -> list[Spec]:
    """dx, dweight = sum of dy xhat, dbias = sum of dy; xhat = (x - mean) / sqrt(variance + eps).

    Where y, the output of a ReLU behind it, is given, dy is 0 where y <= 0; that is the
    fourth output with `with_addend`. With batch statistics
    dx = weight / sqrt(variance + eps) (dy - dbias/M - xhat dweight/M) for M elements a channel;
    with given statistics the last two terms are absent.
    """
    channel, image = Spec(x.shape[1:2], x.dtype), Spec(x.shape, x.dtype, x.order)
    return [image, channel, channel, image] if with_addend else [image, channel, channel]


class BatchNorm(Function):
    """Normalisation by the batch's statistics, or by given ones."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        mean: Tensor,
        variance: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        training: bool,
    ) -> Tensor:
        if training:
            ctx.save_for_backward(x, mean, variance, weight)
        else:  # running statistics move on; what was used here must not
            ctx.save_for_backward(x, mean.clone(), variance.clone(), weight)
        ctx.eps, ctx.training = eps, training
        return batch_norm(x, mean, variance, weight, bias, None, eps=eps, relu=False)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, variance, weight = ctx.saved_tensors
        dx, dweight, dbias = batch_norm_backward(
            dy, x, mean, variance, weight, None,
            eps=ctx.eps, training=ctx.training, with_addend=False,
        )  # fmt: skip
        need_weight, need_bias = ctx.needs_input_grad[3:5]
        return (
            dx,
            None,
            None,
            dweight if need_weight else None,
            dbias if need_bias else None,
            None,
            None,
        )


def normalize(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Batch normalisation as torch.nn.functional.batch_norm.

    Args:
        input: (N, C, ...).
        running_mean, running_var: (C,), read when not `training`, else updated in place (the
            variance with the unbiased estimate).
        weight, bias: (C,) or None.
        training: normalise by the statistics of this batch.
        momentum: the share of the batch in the running statistics.
        eps: added to the variance.

    Raises:
        ValueError: a shape is wrong, a batch has one value a channel, or statistics are missing.
        TypeError, RuntimeError: wrong dtypes or devices.
    """
    call = "batch_norm"
    x = check_tensor(call, input)
    if x.ndim < 2 or x.dtype.kind != "f":
        raise ValueError(f"{call}: input must be floats (N, C, ...), got {x.dtype} {x.shape}")
    named = {
        "running_mean": running_mean,
        "running_var": running_var,
        "weight": weight,
        "bias": bias,
    }
    channels = x.shape[1]
    for name, value in named.items():
        if value is None:
            continue
        if check_tensor(call, value, name).shape != (channels,) or value.dtype != x.dtype:
            raise ValueError(
                f"{call}: {name} must be {x.dtype} of shape ({channels},) for input {x.shape}, "
                f"got {value.dtype} {value.shape}"
            )
    same_device(call, input=x, **named)
    if (running_mean is None) != (running_var is None):
        raise ValueError(f"{call}: running_mean and running_var must both be given, or neither")
    if training and eps <= 0:
        raise ValueError(f"{call}: eps must be positive in training, got {eps}")
    if not training:
        if running_mean is None or running_var is None:
            raise ValueError(f"{call}: running_mean and running_var are needed when not training")
        mean, variance = running_mean, running_var
    else:
        count = x.shape[0] * math.prod(x.shape[2:])
        if count == 1:
            raise ValueError(
                f"{call}: training needs more than one value a channel, got input {x.shape}"
            )
        if count:
            mean, variance = batch_norm_statistics(
                x, running_mean, running_var, momentum=float(momentum)
            )
        else:  # an empty batch has none, and needs none
            mean, variance = (full((channels,), 1, x.dtype, x.device) for _ in range(2))
    return BatchNorm.apply(x, mean.detach(), variance.detach(), weight, bias, float(eps), training)
