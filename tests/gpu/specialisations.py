"""Which modules the tests compile: those the table of cases asks for, and the rest of the types."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from fake_cuda import FakeCuda, Launch, launches_of_the_cases

from gpucnn.backends.gpu import elementwise, index, iteration, reduce
from gpucnn.backends.gpu.estimate import planned_for
from gpucnn.backends.gpu.instances import instances
from gpucnn.backends.gpu.kernel import Module
from gpucnn.backends.gpu.occupancy import LIMITS
from gpucnn.cases.specialisations import instance_uses
from gpucnn.core.memory import DTYPES

FLOATS = ("float32", "float64")
_UNARY = ("negative", "absolute", "sign")
_FLOAT_UNARY = (*_UNARY, "exp", "log", "sqrt", "reciprocal", "relu", "sigmoid", "tanh")
_BINARY = ("add", "subtract", "multiply", "power", "maximum", "minimum")
_FLOAT_BINARY = (*_BINARY, "divide", "relu_backward", "sigmoid_backward", "tanh_backward")
_INTEGER_BINARY = (*_BINARY, "floor_divide", "remainder")


def of_the_cases() -> dict[Module, set[str]]:
    """Every module that the table of cases launches, with the entries it launches."""
    return _by_module(launches_of_the_cases())


def of_the_instances() -> dict[Module, set[str]]:
    """Every module of the convolution's instances, on whatever architecture they are for."""
    found: dict[Module, set[str]] = {}
    for arch in LIMITS:
        for instance in instances():
            for kernel in instance_uses(instance, planned_for(arch)):
                found.setdefault(kernel.module, set()).add(kernel.entry)
    return found


def of_all_types(monkeypatch: pytest.MonkeyPatch) -> dict[Module, set[str]]:
    """The elementwise, reducing and moving kernels of all six dtypes; of float32 and int64 also
    with the 64-bit offsets of very large arrays."""
    runtime = FakeCuda()
    for dtype in DTYPES:
        _walk(runtime, dtype, DTYPES)
    monkeypatch.setattr(iteration, "NARROW_LIMIT", 0)
    for dtype in (np.dtype(np.float32), np.dtype(np.int64)):
        _walk(runtime, dtype, (np.dtype(np.float64),))
    return _by_module(tuple(runtime.launches))


def _walk(
    runtime: FakeCuda, dtype: np.dtype[np.generic], targets: tuple[np.dtype[np.generic], ...]
) -> None:
    x, y, z = (runtime.empty((5, 7), dtype) for _ in range(3))
    mask = runtime.empty((5, 7), np.bool_)
    for op in _FLOAT_UNARY if dtype.name in FLOATS else _UNARY:
        elementwise.unary(runtime, x, y, op=op)
    for op in _FLOAT_BINARY if dtype.name in FLOATS else _INTEGER_BINARY:
        elementwise.binary(runtime, x, z, y, op=op)
    elementwise.binary(runtime, x, z, mask, op="less")
    elementwise.where(runtime, mask, x, 0, y)
    elementwise.full(runtime, y, value=1)
    elementwise.copy(runtime, x.T, runtime.empty((7, 5), dtype))
    for target in targets:
        elementwise.copy(runtime, x, runtime.empty((5, 7), target))
    for op, axis in itertools.product(("max", "min"), (0, 1)):
        result = runtime.empty((7, 5)[axis : axis + 1], dtype)
        reduce.reduce(runtime, x, result, op=op, axes=(axis,), keepdims=False)
        place = runtime.empty((7, 5)[axis : axis + 1], np.int64)
        reduce.arg_reduce(runtime, x, place, op=f"arg{op}", axis=axis, keepdims=False)
    chosen = runtime.empty((3,), np.int64)
    index.take(runtime, x, chosen, runtime.empty((3, 7), dtype), axis=0)
    if dtype.name in FLOATS:
        index.take_backward(runtime, runtime.empty((3, 7), dtype), chosen, x, axis=0)


def _by_module(launches: tuple[Launch, ...]) -> dict[Module, set[str]]:
    found: dict[Module, set[str]] = {}
    for launch in launches:
        found.setdefault(launch.kernel.module, set()).add(launch.kernel.entry)
    return found
