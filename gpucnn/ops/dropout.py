"""Dropout (Srivastava et al. 2014), with the same mask on every device."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucnn import random
from gpucnn.core.autograd import Function
from gpucnn.core.dispatch import Spec
from gpucnn.core.memory import int64
from gpucnn.core.primitive import primitive
from gpucnn.core.recording import host_values
from gpucnn.core.tensor import Tensor
from gpucnn.ops.activation import check_tensor


@primitive
def dropout(x: Tensor, key: Tensor, *, p: float) -> list[Spec]:
    """y[i] = x[i] / (1 - p) where random word number i of Philox stream `key` >= p 2^32, else 0.

    `key` holds the bits of (seed, call number) as int64 (2,).

    i counts elements in C order of the shape, whatever the memory order.
    """
    return [Spec(x.shape, x.dtype, x.order)]


class Dropout(Function):
    """Elements kept with probability 1 - p and scaled up; the mask is drawn again in backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        ctx.p, ctx.key = p, Tensor(host_values(_next_words, int64, x.device), x.device)
        return dropout(x, ctx.key, p=p)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        return dropout(dy, ctx.key, p=ctx.p), None


def _next_words() -> np.ndarray[Any, Any]:
    """The next Philox key as the bits of two int64 numbers."""
    return np.array(random.next_key(), np.uint64).view(np.int64)


def drop(input: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Each element set to 0 with probability p, the others multiplied by 1 / (1 - p).

    Raises:
        ValueError: p is not in [0, 1].
        TypeError: the input is not a float tensor.
    """
    x = check_tensor("dropout", input)
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout: p must be in [0, 1], got {p}")
    if x.dtype.kind != "f":
        raise TypeError(f"dropout: input must be of floats, got {x.dtype}; use .float()")
    if not training or p == 0.0:
        return x
    if p == 1.0:
        return x * 0.0
    return Dropout.apply(x, float(p))
