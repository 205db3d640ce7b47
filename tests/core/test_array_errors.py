"""The texts of refusals of views, indices, reductions, creation and arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpucnn
from gpucnn import arange, empty, from_dlpack, full, ones, tensor, zeros
from gpucnn.nn import functional as F

Call = Callable[[], Any]
DTYPES = "float32, float64, int64, int32, uint8, bool"


def bools(*shape: int) -> gpucnn.Tensor:
    return ones(*shape, dtype=bool)


def assign(x: gpucnn.Tensor, key: Any, value: Any) -> None:
    x[key] = value


class _OnAnotherKindOfDevice:
    def __dlpack_device__(self) -> tuple[int, int]:
        return 7, 0


VIEWS: list[tuple[Call, type[Exception], str]] = [
    (lambda: ones(2, 3).reshape(4, 2), ValueError,
     "reshape: shape (4, 2) does not fit (2, 3) (6 elements)"),
    (lambda: ones(2, 3).reshape(-1, -1), ValueError,
     "reshape: shape (-1, -1) does not fit (2, 3) (6 elements)"),
    (lambda: ones(0, 3).reshape(-1, 0), ValueError,
     "reshape: shape (-1, 0) does not fit (0, 3) (0 elements)"),
    (lambda: ones(6).view(2.0, 3), TypeError, "reshape: sizes must be integers, got (2.0, 3)"),
    (lambda: gpucnn.reshape([1, 2], 2), TypeError,
     "reshape: input must be a gpucnn.Tensor, got list; make one with gpucnn.tensor(...)"),
    (lambda: ones(2, 3, 4).flatten(2, 1), ValueError,
     "flatten: start_dim 2 comes after end_dim 1"),
    (lambda: ones(2, 3).permute(0, 0), ValueError,
     "permute: (0, 0) is not a permutation of 2 dimensions"),
    (lambda: ones(2, 3).permute(0), ValueError,
     "permute: (0,) is not a permutation of 2 dimensions"),
    (lambda: ones(2, 3).transpose(0, 2), IndexError,
     "transpose: dim 2 is out of range for 2 dimensions"),
    (lambda: ones(2, 3, 4).t(), ValueError,
     "t: needs at most two dimensions, got (2, 3, 4); use .transpose()"),
    (lambda: ones(2, 3).unsqueeze(-4), IndexError,
     "unsqueeze: dim -4 is out of range for 3 dimensions"),
    (lambda: ones(2, 3).squeeze(1.0), TypeError, "squeeze: dim must be an integer, got 1.0"),
    (lambda: ones(2, 3).expand(4, 3), ValueError,
     "expand: shape (2, 3) does not expand to (4, 3)"),
    (lambda: ones(3).expand(-1, 3), ValueError, "expand: shape (3,) does not expand to (-1, 3)"),
    (lambda: gpucnn.cat([]), ValueError, "cat: needs at least one tensor"),
    (lambda: gpucnn.cat([ones(2, 3), ones(3, 2)]), ValueError,
     "cat: shapes must agree except in dim 0, got (2, 3), (3, 2)"),
    (lambda: gpucnn.cat([ones(()), ones(())]), ValueError,
     "cat: shapes must agree except in dim 0, got (), ()"),
    (lambda: gpucnn.cat([ones(2), 1.0]), TypeError,
     "cat: tensors[1] must be a gpucnn.Tensor, got float; make one with gpucnn.tensor(...)"),
    (lambda: gpucnn.stack([]), ValueError, "stack: needs at least one tensor"),
    (lambda: F.pad(ones(2, 3), (1,)), ValueError,
     "pad: pad must be pairs for at most 2 axes, got (1,)"),
    (lambda: F.pad(ones(2, 3), (-2, -2)), ValueError,
     "pad: (-2, -2) cuts more than axis 1 of (2, 3)"),
    (lambda: F.pad(ones(2, 3), (1, 1), "edge"), ValueError,
     "pad: mode must be 'constant', 'replicate', 'reflect' or 'circular', got 'edge'"),
    (lambda: F.pad(ones(2, 3), (1, 1), "reflect", 1.0), ValueError,
     "pad: value has no meaning in mode 'reflect'"),
    (lambda: F.pad(ones(2, 3), (3, 0), "reflect"), ValueError,
     "pad: (3, 0) is too wide for reflect of axis 1 of (2, 3)"),
    (lambda: F.one_hot(tensor([3]), 3), ValueError, "one_hot: class numbers must be in 0..2"),
]  # fmt: skip

INDICES: list[tuple[Call, type[Exception], str]] = [
    (lambda: ones(2, 3)[2], IndexError,
     "getitem: index 2 is out of range for dim 0 of shape (2, 3)"),
    (lambda: ones(2, 3)[0, 0, 0], IndexError, "getitem: 3 indices for shape (2, 3)"),
    (lambda: ones(2)[..., ...], IndexError, "getitem: more than one Ellipsis"),
    (lambda: ones(2)["a"], TypeError, "getitem: 'a' is not an index"),
    (lambda: ones(2)[1.0], TypeError, "getitem: 1.0 is not an index"),
    (lambda: ones(2, 3)[:, [0, 3]], IndexError,
     "getitem: index 3 is out of range for dim 1 of length 3"),
    (lambda: ones(2, 3)[[0, 1], [0, 1, 2]], IndexError,
     "getitem: index arrays (2,) and (3,) do not broadcast"),
    (lambda: ones(3)[tensor([0.5])], IndexError,
     "getitem: an index array must be of integers, got float32"),
    (lambda: ones(3)[bools(2)], IndexError, "getitem: mask of shape (2,) for shape (3,)"),
    (lambda: ones(3)[::0], ValueError, "getitem: a slice cannot step by 0"),
    (lambda: ones(3).index_select(0, tensor([[0]])), TypeError,
     "index_select: index must be 1-D and of integers, got int64 (1, 1)"),
    (lambda: ones(3).index_select(0, tensor([-4])), IndexError,
     "index_select: index -4 is out of range for dim 0 of length 3"),
    (lambda: assign(ones(3), [0, 1], 2.0), TypeError,
     "setitem: assign through integers, slices or a bool mask of the tensor's shape"),
    (lambda: assign(ones(3), bools(3), ones(3)), TypeError,
     "setitem: one value for a whole mask, got (3,)"),
    (lambda: assign(ones(2, 3), 0, ones(2)), ValueError,
     "copy_: shapes (3,) and (2,) do not broadcast"),
    (lambda: assign(ones(3, dtype=gpucnn.uint8), 0, 256), ValueError,
     "fill_: 256 does not fit a tensor of uint8"),
]  # fmt: skip

REDUCTIONS: list[tuple[Call, type[Exception], str]] = [
    (lambda: ones(2, 3).sum(2), IndexError, "sum: dim 2 is out of range for 2 dimensions"),
    (lambda: ones(()).sum(1), IndexError, "sum: dim 1 is out of range for 0 dimensions"),
    (lambda: ones(2, 3).sum((0, -2)), ValueError, "sum: dim (0, -2) names an axis twice"),
    (lambda: ones(2, 3).mean(0.5), TypeError, "mean: dim must be an integer, got 0.5"),
    (lambda: tensor([1, 2]).mean(), TypeError,
     "mean: the tensor must be of floats, got int64; use .float()"),
    (lambda: tensor([1, 2]).var(), TypeError,
     "var: the tensor must be of floats, got int64; use .float()"),
    (lambda: ones(0, 3).max(), ValueError, "max: no elements to choose from in shape (0, 3)"),
    (lambda: ones(0, 3).min(0), ValueError, "min: no elements to choose from in shape (0, 3)"),
    (lambda: ones(3, 0).amax(1), ValueError, "amax: no elements to choose from in shape (3, 0)"),
    (lambda: ones(3, 0).argmax(1), ValueError,
     "argmax: no elements to choose from in shape (3, 0)"),
    (lambda: ones(3).argmin(1), IndexError, "argmin: dim 1 is out of range for 1 dimensions"),
]  # fmt: skip

CREATION: list[tuple[Call, type[Exception], str]] = [
    (lambda: tensor([1.0], dtype="float16"), TypeError,
     f"tensor: dtype must be one of {DTYPES}, got float16"),
    (lambda: tensor("abc"), TypeError, "tensor: data of type <U3 is not numeric"),
    (lambda: tensor(None), TypeError, "tensor: data of type object is not numeric"),
    (lambda: tensor(1j), TypeError, "tensor: data of type complex128 is not numeric"),
    (lambda: tensor([1], requires_grad=True), RuntimeError,
     "requires_grad_: only float tensors, got int64"),
    (lambda: tensor([1.0], device="gpu"), ValueError,
     "device: 'gpu' is not one of 'cpu', 'cuda', 'cuda:N', 'emulated'"),
    (lambda: gpucnn.from_numpy([1.0]), TypeError,
     "from_numpy: expected a numpy.ndarray, got list"),
    (lambda: gpucnn.from_numpy(np.ones(2, np.int16)), TypeError,
     f"from_numpy: dtype must be one of {DTYPES}, got int16"),
    (lambda: from_dlpack(_OnAnotherKindOfDevice()), RuntimeError,
     "from_dlpack: device type 7 is neither a cpu nor a CUDA device"),
    (lambda: zeros(2, -1), ValueError, "zeros: sizes must not be negative, got (2, -1)"),
    (lambda: ones(2.5), TypeError, "ones: sizes must be integers, got (2.5,)"),
    (lambda: empty(2, 3, order=(0, 2)), ValueError,
     "empty: order (0, 2) is not a permutation of the axes of (2, 3)"),
    (lambda: full((2,), 300, dtype="uint8"), ValueError,
     "full: 300 does not fit a tensor of uint8"),
    (lambda: full((2,), float("nan"), dtype="int64"), ValueError,
     "full: nan does not fit a tensor of int64"),
    (lambda: arange(3, 1), ValueError, "arange: step 1 does not lead from 3 to 1"),
    (lambda: arange(0, 1, 0), ValueError, "arange: step 0 does not lead from 0 to 1"),
    (lambda: gpucnn.randint(3, 3, (2,)), ValueError,
     "randint: high must exceed low, got low 3, high 3"),
]  # fmt: skip

ARITHMETIC: list[tuple[Call, type[Exception], str]] = [
    (lambda: ones(2, 3) + ones(3, 2), ValueError, "add: shapes (2, 3) and (3, 2) do not broadcast"),
    (lambda: ones(2) < ones(3), ValueError, "less: shapes (2,) and (3,) do not broadcast"),
    (lambda: gpucnn.maximum(ones(2), "1"), TypeError,
     "maximum: expected a Tensor or a number, got str; make a tensor with gpucnn.tensor(...)"),
    (lambda: gpucnn.where(ones(2), 1, 0), TypeError,
     "where: condition must be a bool tensor, got float32"),
    (lambda: ~ones(2), TypeError, "logical_not: input must be a bool tensor, got float32"),
    (lambda: bools(2) & ones(2), TypeError,
     "logical_and: other must be a bool tensor, got float32"),
    (lambda: bools(2) - bools(2), TypeError,
     "subtract: not an operation on bools; use .long() or .float()"),
    (lambda: -bools(2), TypeError, "negative: a bool tensor has no sign; for `not` write ~x"),
    (lambda: tensor([2]) ** -1, ValueError,
     "power: an integer to a negative integer power, -1; use .float()"),
    (lambda: ones(2, dtype="uint8") + 256, ValueError, "add: 256 does not fit a tensor of uint8"),
    (lambda: gpucnn.clamp(ones(2)), ValueError, "clamp: min or max must be given"),
    (lambda: ones(2).clamp(min=ones(2)), TypeError,
     "clamp: min must be a number; use maximum or minimum"),
    (lambda: ones(2).add_(ones(3, 2)), ValueError, "add_: (3, 2) does not broadcast into (2,)"),
    (lambda: tensor([1]).add_(0.5), TypeError,
     "add_: float64 cannot be stored in a tensor of int64"),
    (lambda: tensor([1]).mul_(ones(1)), TypeError,
     "mul_: float32 cannot be stored in a tensor of int64"),
    (lambda: tensor([1]).div_(2), TypeError, "div_: the result is a float, the tensor is int64"),
    (lambda: ones(1, 3).expand(2, 3).zero_(), RuntimeError,
     "fill_: elements of the tensor share memory (it was expanded); change a clone"),
    (lambda: ones(2).copy_([1, 2]), TypeError,
     "copy_: source must be a gpucnn.Tensor, got list; make one with gpucnn.tensor(...)"),
]  # fmt: skip

TABLE = [*VIEWS, *INDICES, *REDUCTIONS, *CREATION, *ARITHMETIC]


@pytest.mark.parametrize(("call", "kind", "text"), TABLE, ids=[row[2] for row in TABLE])
def test_operations_say_what_is_wrong(call: Call, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind) as error:
        call()
    assert type(error.value) is kind
    assert str(error.value) == text


def test_data_must_be_rectangular() -> None:
    with pytest.raises(ValueError, match=r"^tensor: data is not rectangular \("):
        tensor([[1, 2], [3]])
