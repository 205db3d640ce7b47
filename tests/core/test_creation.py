"""Tensors from data, constants and random numbers, with PyTorch's dtypes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from needing_torch import where_installed

import gpucnn
from gpucnn import tensor

DATA: list[Any] = [
    1, 2.5, True, [], [[]], [1, 2], [1.0, 2], [True, False], [True, 2], [[1, 2.5], [3, 4]],
    (1, (2)), np.arange(3), np.ones(2), np.ones(2, np.float32), np.array(3), np.float64(1.5),
    np.float32(1.5), np.int32(7), [np.float64(1.5), np.float64(2)], np.zeros((2, 0), np.int32),
    np.array([True]), np.arange(6, dtype=np.uint8).reshape(2, 3)[:, ::2],
]  # fmt: skip


@pytest.mark.parametrize("data", where_installed(DATA), ids=repr)
def test_data_has_pytorchs_dtype(data: Any) -> None:
    import torch

    ours, theirs = tensor(data), torch.tensor(data)
    assert str(theirs.dtype) == f"torch.{ours.dtype}"
    assert ours.shape == tuple(theirs.shape) and ours.tolist() == theirs.tolist()


# Written once, run with both libraries.
CALLS: dict[str, Callable[[Any], Any]] = {
    "zeros": lambda lib: lib.zeros(2, 3),
    "zeros of a tuple": lambda lib: lib.zeros((2, 3)),
    "zeros of nothing": lambda lib: lib.zeros(()),
    "zeros of dtype None": lambda lib: lib.zeros(2, dtype=None),
    "ones": lambda lib: lib.ones(2, dtype=lib.int64),
    "full of a float": lambda lib: lib.full((2,), 1.5),
    "full of an int": lambda lib: lib.full((2,), 3),
    "full of a bool": lambda lib: lib.full((2,), True),
    "full cut": lambda lib: lib.full((2,), 1.75, dtype=lib.int32),
    "zeros_like": lambda lib: lib.zeros_like(lib.ones(2, dtype=lib.int32)),
    "ones_like": lambda lib: lib.ones_like(lib.zeros(2, 1), dtype=lib.float64),
    "arange": lambda lib: lib.arange(5),
    "arange of floats": lambda lib: lib.arange(1.0, 2.0, 0.1),
    "arange in float64": lambda lib: lib.arange(1, 3, 0.1, dtype=lib.float64),
    "arange backwards": lambda lib: lib.arange(5, -2, -3),
    "arange of nothing": lambda lib: lib.arange(3, 3),
    "arange of int32": lambda lib: lib.arange(3, dtype=lib.int32),
    "where of ints": lambda lib: lib.where(lib.ones(2, dtype=lib.bool), 1, 2),
    "where of floats": lambda lib: lib.where(lib.ones(2, dtype=lib.bool), 1.0, 2),
    "where of bools": lambda lib: lib.where(lib.ones(2, dtype=lib.bool), True, False),
    "cat": lambda lib: lib.cat([lib.ones(1, dtype=lib.uint8), lib.ones(1, dtype=lib.int32)]),
    "cat with nothing": lambda lib: lib.cat([lib.zeros(0), lib.ones(2, 3, dtype=lib.int64)]),
    "sum": lambda lib: lib.ones(3, dtype=lib.uint8).sum(),
    "sum of bools": lambda lib: lib.ones(3, dtype=lib.bool).sum(0),
    "sum as": lambda lib: lib.ones(3, dtype=lib.int64).sum(dtype=lib.float64),
    "mean as": lambda lib: lib.ones(3, dtype=lib.int64).mean(dtype=lib.float32),
    "argmax": lambda lib: lib.ones(3).argmax(),
    "exp": lambda lib: lib.zeros(2, dtype=lib.int32).exp(),
    "relu": lambda lib: (lib.arange(3) - 1).relu(),
    "softmax": lambda lib: lib.zeros(2).softmax(0, dtype=lib.float64),
}


@pytest.mark.parametrize("name", where_installed(CALLS))
def test_results_have_pytorchs_dtype(name: str) -> None:
    import torch

    ours, theirs = CALLS[name](gpucnn), CALLS[name](torch)
    assert str(theirs.dtype) == f"torch.{ours.dtype}"
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), 1e-15)


def test_dtypes_by_any_name() -> None:
    for dtype in ("float64", np.float64, np.dtype("f8"), float, gpucnn.float64):
        assert gpucnn.ones(1, dtype=dtype).dtype == gpucnn.float64
    assert gpucnn.ones(1, dtype=int).dtype == gpucnn.int64
    assert gpucnn.ones(1, dtype=bool).dtype == gpucnn.bool


def test_tensor_copies_its_data() -> None:
    array = np.arange(3.0)
    x = tensor(array)
    y = tensor(x)
    array[0] = 9
    x.data[1] = 9
    assert x.tolist() == [0, 9, 2] and y.tolist() == [0, 1, 2]
    z = tensor(x, dtype="int64", requires_grad=False)
    assert z.dtype == gpucnn.int64
    graph = tensor(tensor([1.0], requires_grad=True) * 2)
    assert graph.is_leaf and not graph.requires_grad


def test_tensors_in_lists() -> None:
    x = tensor([tensor(1.0), tensor(2.0, requires_grad=True) * 3])
    assert x.tolist() == [1, 6] and x.dtype == gpucnn.float32


def test_byte_order_is_made_native() -> None:
    x = tensor(np.array([1.0, 2.0], ">f4"))
    assert x.dtype == np.float32 and x.dtype.isnative and x.tolist() == [1, 2]
    assert gpucnn.as_tensor(np.array([1, 2], ">i8")).tolist() == [1, 2]


def test_as_tensor_and_from_numpy_share_memory() -> None:
    array = np.arange(4.0).reshape(2, 2).T
    for x in (gpucnn.as_tensor(array), gpucnn.from_numpy(array)):
        assert x.data is array
    assert not np.shares_memory(gpucnn.as_tensor(array, dtype="float32").data, array)
    x = gpucnn.from_numpy(array)
    assert gpucnn.as_tensor(x) is x and gpucnn.as_tensor(x, device="cpu") is x


def test_memory_order() -> None:
    order = (0, 2, 3, 1)
    x = gpucnn.empty(2, 3, 4, 5, order=order)
    assert x.shape == (2, 3, 4, 5) and x.data.strides == (240, 4, 60, 12)
    for twin in (gpucnn.zeros_like(x), gpucnn.ones_like(x), x.clone(), tensor(x), tensor(x.data)):
        assert twin.order == order
    assert x.contiguous().order is None
    plain = gpucnn.ones(2, 3)
    assert plain.contiguous() is plain


def test_requires_grad() -> None:
    for make in (gpucnn.zeros, gpucnn.ones, gpucnn.empty, gpucnn.rand, gpucnn.randn):
        x = make(2, dtype="float64", requires_grad=True)
        assert x.requires_grad and x.is_leaf and x.dtype == np.float64
    assert gpucnn.arange(2.0, requires_grad=True).requires_grad
    assert gpucnn.zeros_like(gpucnn.ones(2), requires_grad=True).requires_grad


def test_random_numbers_follow_the_seed() -> None:
    def draw() -> list[Any]:
        gpucnn.manual_seed(5)
        parts = gpucnn.rand(100), gpucnn.randn(50, 40), gpucnn.randint(3, 9, (200,))
        return [p.numpy().copy() for p in (*parts, gpucnn.randint(4, (2, 3)))]

    first, second = draw(), draw()
    assert all(a.tobytes() == b.tobytes() for a, b in zip(first, second))
    uniform, normal, whole, other = first
    assert uniform.dtype == np.float32 and 0 <= uniform.min() and uniform.max() < 1
    assert abs(normal.mean()) < 0.1 and abs(normal.std() - 1) < 0.1
    assert whole.dtype == np.int64 and set(whole) == set(range(3, 9))
    assert other.shape == (2, 3) and other.max() < 4
    assert gpucnn.initial_seed() == 5
    gpucnn.manual_seed(6)
    assert gpucnn.rand(100).tolist() != uniform.tolist()
    gpucnn.manual_seed(-1)
    assert gpucnn.initial_seed() == 2**64 - 1
