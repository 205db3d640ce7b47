"""Drawing shapes, values, memory layouts and arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass
class Configuration:
    """One call.

    Attributes:
        inputs: arrays (float64 with values that float32 holds, int64 or bool) or None.
        call: (library, its nn.functional, *tensors) -> a tensor or a tuple of them.
        text: the arguments, for messages.
        grad: which inputs get a gradient; all of floats when None.
    """

    inputs: list[Array | None]
    call: Callable[..., Any]
    text: str = ""
    grad: Sequence[int] | None = None
    name: str = ""

    def __post_init__(self) -> None:
        self.inputs = [None if a is None else np.asarray(a) for a in self.inputs]

    def is_float(self, number: int) -> bool:
        array = self.inputs[number]
        return array is not None and array.dtype.kind == "f"

    def wants_gradient(self, number: int) -> bool:
        return self.is_float(number) and (self.grad is None or number in self.grad)


class Draw:
    """A seeded source of everything that is random about a configuration."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def integer(self, low: int, high: int) -> int:
        """low to high, both included."""
        return int(self.rng.integers(low, high + 1))

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def choice(self, *options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def pair(self, low: int, high: int) -> Any:
        """An integer, or two."""
        if self.chance(0.5):
            return self.integer(low, high)
        return (self.integer(low, high), self.integer(low, high))

    def shape(self, low: int, high: int, longest: int = 6, empty: float = 0.05) -> tuple[int, ...]:
        """`low` to `high` axes, seldom one of length 0."""
        shape = [self.integer(1, longest) for _ in range(self.integer(low, high))]
        if shape and self.chance(empty):
            shape[self.integer(0, len(shape) - 1)] = 0
        return tuple(shape)

    def normal(self, shape: Sequence[int]) -> Array:
        return self.laid_out(self.rng.standard_normal(shape))

    def positive(self, shape: Sequence[int]) -> Array:
        return self.laid_out(self.rng.uniform(0.3, 2.5, shape))

    def ties(self, shape: Sequence[int]) -> Array:
        return self.laid_out(self.rng.integers(-2, 3, shape).astype(np.float64))

    def special(self, shape: Sequence[int]) -> Array:
        """Normal numbers with NaN and infinities among them."""
        values = self.rng.standard_normal(shape)
        for value in (np.nan, np.inf, -np.inf):
            values[self.rng.random(shape) < 0.07] = value
        return self.laid_out(values)

    def values(self, shape: Sequence[int]) -> Array:
        """Mostly normal numbers, sometimes ties, seldom NaN and infinities."""
        kind = self.rng.random()
        if kind < 0.6:
            return self.normal(shape)
        return self.ties(shape) if kind < 0.85 else self.special(shape)

    def laid_out(self, values: Array) -> Array:
        """The values rounded to float32, behind strides of some kind."""
        x = np.asarray(values, np.float32).astype(np.float64)
        layout = self.rng.random()
        if x.ndim == 4 and layout < 0.4:
            return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        if x.ndim < 2 or layout < 0.6:
            return x
        if layout < 0.7:
            return np.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2)
        if layout < 0.8:
            return np.ascontiguousarray(x[..., ::-1])[..., ::-1]
        if layout < 0.9:
            wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]))
            wide[..., ::2] = x
            return wide[..., ::2]
        order = self.rng.permutation(x.ndim)
        return np.ascontiguousarray(x.transpose(order)).transpose(np.argsort(order))
