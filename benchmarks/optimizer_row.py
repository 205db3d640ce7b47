"""A row that updates the parameters of a net by their gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import gpucnn
from gpucnn import optim
from gpucnn.benchmarks.row import EAGER, Array, Call, Row, Variant
from gpucnn.core.device import Device

OPTIONS: dict[str, dict[str, float]] = {
    "SGD": {"lr": 0.01, "momentum": 0.9},
    "Adam": {"lr": 0.01},
}


@dataclass(frozen=True, kw_only=True)
class OptimizerRow(Row):
    """`optimizer.step()`, the second and later ones: the first one only begins the state.

    Attributes:
        optimizer: a class of `gpucnn.optim`, with the options of `OPTIONS`.
        shapes: of the parameters.
    """

    optimizer: str
    shapes: tuple[tuple[int, ...], ...]

    def arrays(self) -> tuple[list[Array], list[Array]]:
        """Parameters and gradients."""
        rng = np.random.default_rng(5)
        values = [rng.standard_normal(shape, dtype=np.float32) for shape in self.shapes]
        return values, [rng.standard_normal(shape, dtype=np.float32) for shape in self.shapes]

    def call(self, device: Device, variant: Variant = EAGER) -> Call:
        values, gradients = self.arrays()
        parameters = [gpucnn.tensor(v, device=device, requires_grad=True) for v in values]
        optimizer: Any = getattr(optim, self.optimizer)(parameters, **OPTIONS[self.optimizer])
        for parameter, gradient in zip(parameters, gradients):
            # By way of backward: it leaves a gradient where the optimizer reads it.
            (parameter * gpucnn.tensor(gradient, device=device)).sum().backward()
        optimizer.step()
        return Call(optimizer.step, lambda _: [np.asarray(p) for p in parameters])

    def expected(self) -> list[Array]:
        values, gradients = self.arrays()
        updates: dict[str, Callable[..., Array]] = {"SGD": _sgd, "Adam": _adam}
        return [
            updates[self.optimizer](
                v.astype(np.float64), g.astype(np.float64), **OPTIONS[self.optimizer]
            )
            for v, g in zip(values, gradients)
        ]


def _sgd(p: Array, g: Array, lr: float, momentum: float) -> Array:
    """p after two steps with one gradient: the buffer is g, then (1 + momentum) g."""
    return p - lr * g - lr * (1 + momentum) * g


def _adam(p: Array, g: Array, lr: float) -> Array:
    """p after two steps with one gradient: the corrected moments are g and g^2 both times."""
    return p - 2 * lr * g / (np.abs(g) + 1e-8)
