"""torch.nn.functional's names, argument order, defaults and meaning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpucnn.core.tensor import Tensor
from gpucnn.ops import activation, conv, index, loss, norm, pool, view
from gpucnn.ops import dropout as _dropout
from gpucnn.ops import linear as _linear
from gpucnn.ops import softmax as _softmax

conv2d = conv.convolve
max_pool2d = pool.max_pool
avg_pool2d = pool.avg_pool
adaptive_avg_pool2d = pool.adaptive_avg_pool
linear = _linear.linear
batch_norm = norm.normalize


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(x, 0) of each element; NaN stays NaN. `inplace` is accepted and makes a new tensor."""
    return activation.relu(input)


sigmoid = activation.sigmoid
tanh = activation.tanh


def softmax(
    input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None
) -> Tensor:
    """exp(x) / sum of exp(x) along `dim`, computed without overflow.

    Raises:
        TypeError: no `dim`, or the input is not of floats.
        IndexError: the tensor has no such axis.
    """
    return _softmax.softmax_of(input, dim, dtype)


def log_softmax(
    input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None
) -> Tensor:
    """log(softmax(x)) along `dim`, computed without overflow; errors as `softmax`."""
    return _softmax.log_softmax_of(input, dim, dtype)


def _legacy(call: str, size_average: Any, reduce: Any) -> None:
    if size_average is not None or reduce is not None:
        raise TypeError(f"{call}: size_average and reduce are gone; use reduction=")


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Any = None,
    ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    _legacy("cross_entropy", size_average, reduce)
    return loss.softmax_cross_entropy(
        input, target, weight, ignore_index, reduction, label_smoothing
    )


cross_entropy.__doc__ = loss.softmax_cross_entropy.__doc__


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Any = None,
    ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    _legacy("nll_loss", size_average, reduce)
    return loss.nll(input, target, weight, ignore_index, reduction)


nll_loss.__doc__ = loss.nll.__doc__


def mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    _legacy("mse_loss", size_average, reduce)
    return loss.squared_error(input, target, reduction)


mse_loss.__doc__ = loss.squared_error.__doc__


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Each element set to 0 with probability p, the others multiplied by 1 / (1 - p).

    `inplace` is accepted and makes a new tensor. Raises ValueError when p is not in [0, 1].
    """
    return _dropout.drop(input, p, training)


def pad(
    input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> Tensor:
    """The input with elements added (or, if negative, cut off) at its borders.

    Args:
        input: any shape.
        pad: (before, after) pairs, the last axis first: (left, right, top, bottom, ...).
        mode: "constant", or "replicate" (the nearest edge element), "reflect" (without the edge),
            "circular".
        value: the constant, 0 when None.

    Raises:
        ValueError: more pairs than axes, an odd count, an unknown mode, or a reflection wider
            than the input.
    """
    call = "pad"
    x = activation.check_tensor(call, input)
    numbers = tuple(int(n) for n in pad)
    if len(numbers) % 2 or len(numbers) > 2 * x.ndim:
        raise ValueError(f"{call}: pad must be pairs for at most {x.ndim} axes, got {numbers}")
    pairs = {x.ndim - 1 - i // 2: numbers[i : i + 2] for i in range(0, len(numbers), 2)}
    for axis, (before, after) in pairs.items():
        if x.shape[axis] + before + after < 0 or min(before, 0) + min(after, 0) < -x.shape[axis]:
            raise ValueError(f"{call}: {(before, after)} cuts more than axis {axis} of {x.shape}")
    if mode == "constant":
        cut = tuple(
            slice(max(0, -pairs[i][0]), n - max(0, -pairs[i][1])) if i in pairs else slice(None)
            for i, n in enumerate(x.shape)
        )
        padding = tuple(
            (max(0, pairs[i][0]), max(0, pairs[i][1])) if i in pairs else (0, 0)
            for i in range(x.ndim)
        )
        return view.Pad.apply(index.getitem(x, cut), padding, value or 0.0)
    if mode not in ("replicate", "reflect", "circular"):
        raise ValueError(
            f"{call}: mode must be 'constant', 'replicate', 'reflect' or 'circular', got {mode!r}"
        )
    if value:
        raise ValueError(f"{call}: value has no meaning in mode {mode!r}")
    for axis, (before, after) in sorted(pairs.items()):
        x = _pad_from_within(x, axis, before, after, mode)
    return x


def _pad_from_within(x: Tensor, axis: int, before: int, after: int, mode: str) -> Tensor:
    """Padding whose elements are elements of the input, by number along one axis."""
    length = x.shape[axis]
    reach = {"replicate": None, "reflect": length - 1, "circular": length}[mode]
    if length == 0 or (reach is not None and max(before, after) > reach):
        raise ValueError(
            f"pad: {(before, after)} is too wide for {mode} of axis {axis} of {x.shape}"
        )
    number = np.arange(-before, length + after)
    if mode == "replicate":
        number = number.clip(0, length - 1)
    elif mode == "circular":
        number = number % length
    else:
        number = np.abs(number)
        number = np.where(number >= length, 2 * (length - 1) - number, number)
    return index.getitem(x, (slice(None),) * axis + (number,))


def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """The axes from start_dim to end_dim made one."""
    return view.flatten(input, start_dim, end_dim)


def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """Class numbers (...) as int64 rows (..., num_classes) with a single 1.

    Raises:
        ValueError: a class number is negative or not below `num_classes`.
    """
    from gpucnn.ops.creation import arange

    numbers = np.asarray(tensor)
    count = int(numbers.max(initial=-1)) + 1 if num_classes == -1 else num_classes
    if numbers.size and (numbers.min() < 0 or numbers.max() >= count):
        raise ValueError(f"one_hot: class numbers must be in 0..{count - 1}")
    return (tensor.unsqueeze(-1) == arange(count, device=tensor.device)).long()
