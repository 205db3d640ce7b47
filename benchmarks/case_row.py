"""A row made of a case: one operation forward, or the gradients of some of its inputs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import gpucnn
from gpucnn.backends.cpu import algorithms
from gpucnn.backends.gpu import select
from gpucnn.benchmarks import reference
from gpucnn.benchmarks.measure import gpu_runtime
from gpucnn.benchmarks.row import EAGER, Array, Call, Row, Setup, Variant
from gpucnn.cases.case import Case, Input, to_device
from gpucnn.cases.operations import operation
from gpucnn.core import memory
from gpucnn.core.device import Device
from gpucnn.core.precision import PRECISIONS
from gpucnn.ops.geometry import Conv2dGeometry

_ROUNDED = {"tf32": 4e-3, "fp16": 2e-3, "bf16": 3e-2}
"""Largest error allowed of a product of operands rounded to 11, 11 and 8 bits."""


@dataclass(frozen=True, kw_only=True)
class CaseRow(Row):
    """Calls the operation of `case` through the public API.

    Attributes:
        case: in float32; `gpucnn.benchmarks.reference` has a function of its op's name.
        wanted: the numbers of the inputs whose gradients are computed, from a graph built once;
            none for the forward direction, which runs without recording.
        geometry: of a convolution of the suite `layers`.
    """

    case: Case
    wanted: tuple[int, ...] = ()
    geometry: Conv2dGeometry | None = None

    def variants(self, setup: Setup) -> Sequence[Variant]:
        if self.geometry is None:
            return (EAGER,)
        own = PRECISIONS if setup.device.type == "cuda" else ("auto",)
        return [Variant(precision=name) for name in setup.precisions or own]

    def arrays(self) -> list[Array | None]:
        """The inputs on the host."""
        return list(_reference(*self._key)[0])

    @property
    def _key(self) -> tuple[Any, ...]:
        return self.case.op, self.case.inputs, tuple(self.case.attributes.items())

    def call(self, device: Device, variant: Variant = EAGER) -> Call:
        def setting() -> gpucnn.precision:
            return gpucnn.precision(variant.precision)

        tensors = [None if a is None else to_device(a, device) for a in self.arrays()]
        function, attributes = operation(self.case.op), self.case.attributes
        if not self.wanted:

            def forward() -> gpucnn.Tensor:
                with gpucnn.no_grad():
                    y: gpucnn.Tensor = function(*tensors, **attributes)
                return y

            return Call(forward, lambda y: [np.asarray(y)], setting)
        sources = []
        for number in self.wanted:
            tensor = tensors[number]
            if tensor is None:
                raise ValueError(f"{self.title}: input {number} is absent")
            sources.append(tensor.requires_grad_())
        with setting():  # the backward pass has the precision of the forward pass
            y = function(*tensors, **attributes)
        dy = gpucnn.tensor(upstream(y.shape), device=device)
        dy = memory.copy(dy, order=y.order)  # as the layer behind would have left it
        return Call(
            lambda: gpucnn.grad(y, sources, dy, retain_graph=True),
            lambda gradients: [np.asarray(g) for g in gradients],
            setting,
        )

    def expected(self) -> list[Array]:
        _, y, gradients = _reference(*self._key)
        return [gradients()[number] for number in self.wanted] if self.wanted else [y]

    def allowed(self, variant: Variant) -> float:
        return max(self.tolerance, _ROUNDED.get(variant.precision, 0.0))

    def algorithm(self, device: Device, variant: Variant) -> tuple[str, str]:
        g = self.geometry
        if g is None or variant.library != "gpucnn":
            return "", ""
        direction = "forward"
        if self.wanted:
            direction = "backward_input" if 0 in self.wanted else "backward_weight"
        if device.type == "cpu":
            found = algorithms.explain(g, direction, variant.precision)
            return (found[0].name, found[0].name) if found else ("by groups", "by groups")
        properties = gpu_runtime(device).properties()
        chosen = select.choose(direction, g, variant.precision, properties)
        own = "" if chosen.precision == variant.precision else f" {chosen.precision}"
        tile = f"{chosen.tile_m}x{chosen.tile_n}x{chosen.tile_k}"
        return f"{chosen.algorithm} {tile}{own}", chosen.name


@functools.lru_cache(maxsize=1)
def _reference(
    op: str, inputs: tuple[Input, ...], attributes: tuple[tuple[str, Any], ...]
) -> tuple[list[Array | None], Array, Callable[[], Any]]:
    """A case's float32 inputs, its result, and its gradients when they are asked for.

    The directions of one case follow each other: they share this.
    """
    arrays = Case(op, inputs, dict(attributes)).arrays(np.float32)
    doubles = [_to_float64(array) for array in arrays]
    y, pull = getattr(reference, op)(*doubles, **dict(attributes))
    return arrays, y, functools.cache(lambda: pull(upstream(y.shape).astype(np.float64)))


def upstream(shape: tuple[int, ...]) -> Array:
    """The gradient that comes to a result of this shape, float32."""
    return np.random.default_rng(99).standard_normal(shape, dtype=np.float32)


def _to_float64(array: Array | None) -> Array | None:
    return array.astype(np.float64) if array is not None and array.dtype.kind == "f" else array
