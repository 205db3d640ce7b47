"""Losses: softmax cross entropy, negative log-likelihood, squared error."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucnn.core.autograd import Function
from gpucnn.core.device import CPU
from gpucnn.core.dispatch import Spec
from gpucnn.core.memory import int64
from gpucnn.core.primitive import mutating, primitive
from gpucnn.core.tensor import Tensor
from gpucnn.ops.activation import check_tensor
from gpucnn.ops.broadcasting import common_dtype, same_device
from gpucnn.ops.convert import cast
from gpucnn.ops.reduction import mean as mean_of
from gpucnn.ops.reduction import sum as sum_of
from gpucnn.ops.softmax import along_axis
from gpucnn.ops.view import permute, reshape

REDUCTIONS = ("mean", "sum", "none")


@primitive
def cross_entropy(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    *,
    ignore_index: int,
    label_smoothing: float,
    reduction: str,
) -> list[Spec]:
    """loss = -log softmax(logits)[target], weighted, smoothed, reduced; log-probabilities; divisor.

    The loss of a row of class t is
    (1 - e) w[t] (-logp[t]) + e/C sum over c of w[c] (-logp[c]), 0 where t is `ignore_index`;
    "mean" divides by the sum of w[t] over the other rows, which is the third output.
    """
    shape = logits.shape[:1] if reduction == "none" else ()
    dtype = logits.dtype
    return [Spec(shape, dtype), Spec(logits.shape, dtype), Spec((), dtype)]


@primitive
def cross_entropy_backward(
    dloss: Tensor,
    log_probabilities: Tensor,
    target: Tensor,
    weight: Tensor | None,
    divisor: Tensor,
    *,
    ignore_index: int,
    label_smoothing: float,
    reduction: str,
) -> list[Spec]:
    """dlogits[c] = g ((1 - e) w[t] (p[c] - [c = t]) + e/C (p[c] sum of w - w[c])).

    g = dloss / divisor, 0 for a row of `ignore_index`.
    """
    return [Spec(log_probabilities.shape, log_probabilities.dtype)]


@primitive
def cross_entropy_with_gradient(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    *,
    ignore_index: int,
    label_smoothing: float,
    reduction: str,
) -> list[Spec]:
    """The loss of `cross_entropy` and dlogits of `cross_entropy_backward` for dloss = 1."""
    shape = logits.shape[:1] if reduction == "none" else ()
    return [Spec(shape, logits.dtype), Spec(logits.shape, logits.dtype)]


@mutating(3, 4)
def add_scores(
    loss: Tensor,
    logits: Tensor,
    target: Tensor,
    loss_sum: Tensor,
    correct: Tensor,
    *,
    images: int,
) -> list[Spec]:
    """loss_sum += images * loss and correct += sum over i of [argmax logits[i] = target[i]].

    In place: loss_sum () float64, correct () int64. loss () has the dtype of logits (M, C), C > 0;
    target (M,) is int64. The first of the largest logits counts, a NaN above all numbers.
    """
    return []


class CrossEntropy(Function):
    """Softmax cross entropy of rows of logits (M, C) with class numbers (M,)."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, target: Tensor, weight: Tensor | None, options: dict[str, Any]
    ) -> Tensor:
        loss, log_probabilities, divisor = cross_entropy(logits, target, weight, **options)
        ctx.save_for_backward(log_probabilities, target, weight, divisor)
        ctx.options = options
        return loss

    @staticmethod
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor | None, ...]:
        return cross_entropy_backward(dloss, *ctx.saved_tensors, **ctx.options), None, None, None


def check_reduction(call: str, reduction: str) -> None:
    """Refuse an unknown `reduction` with a ValueError."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"{call}: reduction must be 'mean', 'sum' or 'none', got {reduction!r}")


def reduced(values: Tensor, how: str) -> Tensor:
    """All losses, their sum or their mean."""
    if how == "none":
        return values
    return sum_of(values) if how == "sum" else mean_of(values)


def softmax_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """-log softmax(input)[target], as torch.nn.functional.cross_entropy.

    Args:
        input: logits (C,), (N, C) or (N, C, d1, ...).
        target: class numbers (), (N,) or (N, d1, ...) of an integer dtype, or probabilities of
            the input's shape.
        weight: a factor for each class (C,).
        ignore_index: a class number whose rows count for nothing.
        reduction: "mean" (weighted, over the rows that count), "sum" or "none".
        label_smoothing: the share e in [0, 1] of the target spread evenly over all classes.

    Raises:
        ValueError: shapes do not go together, or a value is out of its range.
        IndexError: a class number is outside 0..C-1 (checked on the cpu; a GPU does not wait to
            look and gives NaN).
        TypeError, RuntimeError: wrong dtypes or devices.
    """
    call = "cross_entropy"
    x, t = _checked(call, input, target, weight, reduction)
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"{call}: label_smoothing must be in [0, 1], got {label_smoothing}")
    if t.dtype.kind == "f":
        if ignore_index >= 0:
            raise ValueError(f"{call}: ignore_index needs class numbers, got {t.dtype}")
        return _with_probabilities(x, t, weight, reduction, label_smoothing)
    shape = _check_target(call, x, t)
    classes = x.shape[0 if x.ndim == 1 else 1]
    options = {
        "ignore_index": int(ignore_index),
        "label_smoothing": float(label_smoothing),
        "reduction": reduction,
    }
    rows = reshape(_classes_last(x), t.numel(), classes)
    loss: Tensor = CrossEntropy.apply(rows, reshape(cast(t, int64), t.numel()), weight, options)
    return reshape(loss, *shape) if reduction == "none" else loss


def _checked(
    call: str, input: Any, target: Any, weight: Any, reduction: str
) -> tuple[Tensor, Tensor]:
    x, t = check_tensor(call, input), check_tensor(call, target, "target")
    check_reduction(call, reduction)
    if x.dtype.kind != "f":
        raise TypeError(f"{call}: input must be of floats, got {x.dtype}; use .float()")
    if x.ndim == 0:
        raise ValueError(f"{call}: input must be (C,), (N, C) or (N, C, d1, ...), got ()")
    same_device(call, input=x, target=t, weight=weight)
    classes = x.shape[0 if x.ndim == 1 else 1]
    w = None if weight is None else check_tensor(call, weight, "weight")
    if w is not None and (w.shape != (classes,) or w.dtype != x.dtype):
        raise ValueError(
            f"{call}: weight must be {x.dtype} of shape ({classes},), got {w.dtype} {w.shape}"
        )
    return x, t


def _check_target(call: str, x: Tensor, t: Tensor) -> tuple[int, ...]:
    """Refuse class numbers of another shape or dtype; the shape they must have."""
    if t.dtype.kind not in "iu":
        raise TypeError(f"{call}: target must be class numbers, got {t.dtype}")
    shape = x.shape[:1] + x.shape[2:] if x.ndim > 1 else ()
    if t.shape != shape:
        raise ValueError(f"{call}: input {x.shape} needs a target of shape {shape}, got {t.shape}")
    return shape


def _classes_last(x: Tensor) -> Tensor:
    return x if x.ndim <= 2 else permute(x, 0, *range(2, x.ndim), 1)


def _with_probabilities(
    x: Tensor, t: Tensor, weight: Tensor | None, how: str, smoothing: float
) -> Tensor:
    call = "cross_entropy"
    if t.shape != x.shape:
        raise ValueError(
            f"{call}: input {x.shape} needs probabilities of this shape, got {t.shape}"
        )
    axis = 0 if x.ndim == 1 else 1
    if smoothing:
        t = t * (1.0 - smoothing) + smoothing / x.shape[axis]
    logp = along_axis(call, x, axis, None, True)
    if weight is not None:
        t = t * weight.reshape(-1, *(1,) * (x.ndim - axis - 1))
    losses = -sum_of(logp * t, axis)
    if how != "mean":
        return reduced(losses, how)
    total = sum_of(losses)
    count = x.numel() // max(x.shape[axis], 1)
    return total / count if count else total * float("nan")


def nll(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """-input[target] of log-probabilities, as torch.nn.functional.nll_loss.

    Args and errors as `cross_entropy`, with class numbers for the target.
    """
    from gpucnn.ops.elementwise import select
    from gpucnn.ops.index import getitem, index_select

    call = "nll_loss"
    x, t = _checked(call, input, target, weight, reduction)
    shape = _check_target(call, x, t)
    classes = x.shape[0 if x.ndim == 1 else 1]
    if t.device is CPU:
        from gpucnn.backends.cpu.loss import check_classes

        check_classes(call, t.data, classes, ignore_index)
    rows, numbers = reshape(_classes_last(x), t.numel(), classes), reshape(t, t.numel())
    counts = numbers != ignore_index
    safe = select(counts, numbers, 0)
    losses = select(counts, -getitem(rows, (np.arange(t.numel()), safe)), 0.0)
    factors = cast(counts, x.dtype)
    if weight is not None:
        factors = factors * index_select(weight, 0, safe)
    losses = losses * factors
    if reduction == "mean":
        return sum_of(losses) / sum_of(factors)
    return reshape(losses, *shape) if reduction == "none" else sum_of(losses)


def squared_error(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """(input - target)^2, averaged, summed, or as it is.

    Args:
        input, target: tensors of one shape.
        reduction: "mean", "sum" or "none".

    Raises:
        ValueError: the shapes differ (PyTorch warns and broadcasts, which is seldom meant).
    """
    call = "mse_loss"
    x, t = check_tensor(call, input), check_tensor(call, target, "target")
    check_reduction(call, reduction)
    if x.shape != t.shape:
        raise ValueError(f"{call}: input {x.shape} and target {t.shape} must have one shape")
    x, t = common_dtype(call, x, t)
    difference = x - t
    return reduced(difference * difference, reduction)
