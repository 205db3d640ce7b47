"""A row made of a case: one operation forward, or the gradients of some of its inputs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import gpucnn
from gpucnn.benchmarks import reference
from gpucnn.benchmarks.row import Array, Call, Row
from gpucnn.cases.case import Case, Input, operation, to_device
from gpucnn.core import memory
from gpucnn.core.device import Device


@dataclass(frozen=True, kw_only=True)
class CaseRow(Row):
    """Calls the operation of `case` through the public API.

    Attributes:
        case: in float32; `gpucnn.benchmarks.reference` has a function of its op's name.
        wanted: the numbers of the inputs whose gradients are computed, from a graph built once;
            none for the forward direction, which runs without recording.
    """

    case: Case
    wanted: tuple[int, ...] = ()

    def arrays(self) -> list[Array | None]:
        """The inputs on the host."""
        return list(_reference(*self._key)[0])

    @property
    def _key(self) -> tuple[Any, ...]:
        return self.case.op, self.case.inputs, tuple(self.case.attributes.items())

    def call(self, device: Device) -> Call:
        tensors = [None if a is None else to_device(a, device) for a in self.arrays()]
        function, attributes = operation(self.case.op), self.case.attributes
        if not self.wanted:

            def forward() -> gpucnn.Tensor:
                with gpucnn.no_grad():
                    y: gpucnn.Tensor = function(*tensors, **attributes)
                return y

            return Call(forward, lambda y: [np.asarray(y)])
        sources = []
        for number in self.wanted:
            tensor = tensors[number]
            if tensor is None:
                raise ValueError(f"{self.title}: input {number} is absent")
            sources.append(tensor.requires_grad_())
        y = function(*tensors, **attributes)
        dy = gpucnn.tensor(upstream(y.shape), device=device)
        dy = memory.copy(dy, order=y.order)  # as the layer behind would have left it
        return Call(
            lambda: gpucnn.grad(y, sources, dy, retain_graph=True),
            lambda gradients: [np.asarray(g) for g in gradients],
        )

    def expected(self) -> list[Array]:
        _, y, gradients = _reference(*self._key)
        return [gradients()[number] for number in self.wanted] if self.wanted else [y]


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
