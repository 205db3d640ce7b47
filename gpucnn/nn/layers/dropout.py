"""Dropout, Dropout2d."""

from __future__ import annotations

from gpucnn.core.tensor import Tensor
from gpucnn.nn import functional as F
from gpucnn.nn.module import Module


class _Dropout(Module):
    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        if not 0.0 <= p <= 1.0:
            raise ValueError(
                f"{type(self).__name__}: p must be a probability between 0 and 1, got {p}"
            )
        self.p = p
        self.inplace = inplace

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"


class Dropout(_Dropout):
    """In training, sets each element to zero with probability `p` and scales the rest by 1/(1-p).

    The elements are chosen from the engine's seed, the same ones on every device.
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.dropout(input, self.p, self.training, self.inplace)
