"""Which dtype an operation has, and what it computes: PyTorch's, for every pair of dtypes."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from needing_torch import where_installed

import gpucnn

DTYPES = ("float32", "float64", "int64", "int32", "uint8", "bool")
OPERATIONS = ("add", "sub", "mul", "truediv", "pow", "eq", "lt", "ge")
SHAPES = (((2,), (2,)), ((2,), ()), ((), (2,)), ((), ()))
REFUSALS = (TypeError, ValueError, RuntimeError, NotImplementedError)


def _operands(library: Any, dtypes: tuple[str, str], shapes: Any) -> list[Any]:
    values = np.array([3, 2])
    return [
        library.tensor(values[:1].reshape(()) if shape == () else values).to(getattr(library, d))
        for d, shape in zip(dtypes, shapes)
    ]


def _same(ours: Any, theirs: Any, what: str) -> None:
    if isinstance(theirs, Exception) or isinstance(ours, Exception):
        both = isinstance(theirs, Exception) and isinstance(ours, Exception)
        assert both, f"{what}: gpucnn {ours!r}, PyTorch {theirs!r}"
        return
    assert f"torch.{ours.dtype}" == str(theirs.dtype), what
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), 1e-6, err_msg=what)


def _try(x: Any, op: str, other: Any) -> Any:
    try:
        return getattr(x, op)(other)
    except REFUSALS as error:
        return error


@pytest.mark.parametrize("op", where_installed(OPERATIONS))
def test_pairs_of_tensors(op: str) -> None:
    import torch

    for dtypes, shapes in itertools.product(itertools.product(DTYPES, repeat=2), SHAPES):
        a, b = _operands(gpucnn, dtypes, shapes)
        c, d = _operands(torch, dtypes, shapes)
        _same(_try(a, f"__{op}__", b), _try(c, f"__{op}__", d), f"{op} {dtypes} {shapes}")


@pytest.mark.parametrize("op", where_installed((*OPERATIONS, "rsub", "rtruediv")))
@pytest.mark.parametrize("number", [2, 1.5, True])
def test_tensors_with_numbers(op: str, number: float) -> None:
    import torch

    for dtype, shape in itertools.product(DTYPES, ((2,), ())):
        if op == "pow" and dtype == "bool" and number is True:
            continue  # of no use: refused here
        (a,), (c,) = (_operands(library, (dtype,), (shape,)) for library in (gpucnn, torch))
        ours, theirs = _try(a, f"__{op}__", number), _try(c, f"__{op}__", number)
        _same(ours, theirs, f"{op} {dtype} {shape} {number}")


@pytest.mark.parametrize("op", where_installed(["add_", "mul_", "div_", "copy_"]))
def test_in_place(op: str) -> None:
    import torch

    for dtypes in itertools.product(DTYPES, repeat=2):
        a, b = _operands(gpucnn, dtypes, ((2,), (2,)))
        c, d = _operands(torch, dtypes, ((2,), (2,)))
        _same(_try(a, op, b), _try(c, op, d), f"{op} {dtypes}")


@pytest.mark.parametrize("source", where_installed(DTYPES))
@pytest.mark.parametrize("target", DTYPES)
def test_casts(source: str, target: str) -> None:
    import torch

    values = np.array([0, 1, 2.75, 200] if source != "bool" else [True, False])
    ours = gpucnn.tensor(values).to(dtype=source).to(getattr(gpucnn, target))
    theirs = torch.tensor(values).to(getattr(torch, source)).to(getattr(torch, target))
    _same(ours, theirs, f"{source} to {target}")


def test_numpy_scalars_are_numbers() -> None:
    x = gpucnn.ones(2)
    for y in (x * np.float64(2), np.float64(2) * x, x + np.int64(1), np.float64(3) - x):
        assert y.dtype == np.float32 and y.tolist() == [2, 2]


def test_numpy_arrays_are_tensors_of_their_dtype() -> None:
    x = gpucnn.ones(2, requires_grad=True)
    array = np.array([1.0, 2.0])
    results = [x + array, array + x, x * array, array - x, array / x, array**x]
    for y, expected in zip(results, ([2, 3], [2, 3], [1, 2], [0, 1], [1, 2], [1, 2])):
        assert isinstance(y, gpucnn.Tensor) and y.dtype == np.float64
        assert y.tolist() == expected and y.requires_grad
    assert (array == x).tolist() == [True, False] and (array > x).tolist() == [False, True]
    single = array.astype(np.float32)
    assert (np.ones((1, 2), np.float32) @ x).tolist() == [2] and (x @ single).item() == 3
    array *= 3  # the array is the caller's own still
    assert x.tolist() == [1, 1]
    with pytest.raises(TypeError) as error:
        x + np.ones(2, np.float16)
    assert str(error.value).startswith("add: dtype must be one of float32, float64, int64")
