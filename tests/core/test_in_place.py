"""Changes in place: values, versions, and what the graph refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpucnn
from gpucnn import Tensor, no_grad, ones, tensor, zeros

Change = Callable[[Tensor], Any]

CHANGES: dict[str, Change] = {
    "add_": lambda x: x.add_(1),
    "sub_": lambda x: x.sub_(ones(3)),
    "mul_": lambda x: x.mul_(2.0),
    "div_": lambda x: x.div_(2),
    "copy_": lambda x: x.copy_(ones(3)),
    "fill_": lambda x: x.fill_(3),
    "zero_": lambda x: x.zero_(),
    "setitem": lambda x: x.__setitem__(0, 5.0),
    "setitem by a mask": lambda x: x.__setitem__(x > 0, 5.0),
    "iadd": lambda x: x.__iadd__(1),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_of_a_tensor_that_requires_grad(change: Change) -> None:
    x = tensor([1.0, 2.0, 3.0], requires_grad=True)
    for target in (x, x * 2):
        with pytest.raises(RuntimeError, match="only under gpucnn.no_grad") as error:
            change(target)
        call = str(error.value).partition(":")[0]
        assert str(error.value) == (
            f"{call}: the tensor requires grad; change it in place only under gpucnn.no_grad()"
        )
    with no_grad():
        before = x._version[0]
        change(x)
        assert x._version[0] == before + 1
    assert x.requires_grad and x.is_leaf


@pytest.mark.parametrize("where", ["tensor", "view", "view of a view", "base", "detached"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_of_what_backward_needs(change: Change, where: str) -> None:
    x = tensor([1.0, 2.0, 3.0], requires_grad=True)
    base = tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    other = base[0]
    y = (x * other).sum()
    with no_grad():
        target = {
            "tensor": other,
            "view": other[:],
            "view of a view": other.reshape(3, 1).transpose(0, 1)[0],
            "base": base.reshape(6)[3:],  # even where other elements change
            "detached": other.detach(),
        }[where]
        change(target)
    with pytest.raises(RuntimeError) as error:
        y.backward()
    assert str(error.value) == (
        "backward: a tensor of shape (3,) that Multiply saved was changed in place (version 1, "
        "saved at 0); change a clone, or after backward"
    )


def test_of_what_backward_does_not_need() -> None:
    x = tensor([1.0, 2.0], requires_grad=True)
    other = ones(2)
    y = (x + other).sum()
    other.zero_()
    z = (x * other.clone()).sum()
    other.fill_(7)
    (y + z).backward()
    assert x.grad.tolist() == [1, 1]


def test_of_the_value_of_an_output_that_is_saved() -> None:
    x = tensor([1.0, 2.0], requires_grad=True)
    y = x.exp()
    with no_grad():
        y.add_(1)
    with pytest.raises(RuntimeError, match="that OfOutput saved was changed in place"):
        y.sum().backward()


@pytest.mark.parametrize("call", [
    lambda t, v: t.add_(v), lambda t, v: t.copy_(v), lambda t, v: t.__setitem__(0, v[0]),
    lambda t, v: t.__setitem__(t > 0, v[0]),
])  # fmt: skip
def test_a_value_that_requires_grad_is_not_lost(call: Any) -> None:
    target, value = ones(2), tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(RuntimeError) as error:
        call(target, value)
    assert str(error.value).partition(": ")[2] == (
        "the value requires grad and the change would not be recorded; make a new tensor instead "
        "(x = x + y), or .detach() the value"
    )
    assert target.tolist() == [1, 1]
    with no_grad():
        call(target, value)
    assert not target.requires_grad


def test_values_and_dtypes() -> None:
    x = tensor([4, 9])
    assert x.add_(tensor([1, 1], dtype="int32")).tolist() == [5, 10]
    assert x.mul_(True).sub_(1).tolist() == [4, 9]
    y = tensor([4.0, 9.0])
    same = y
    y += tensor([1, 2])
    y /= 2
    y -= 0.5
    y *= tensor(2.0, dtype="float64")
    assert y is same and y.dtype == np.float32 and y.tolist() == [4, 10]
    z = zeros(2, 2, dtype="int64")
    assert z.copy_(tensor([1.9, -1.9])).tolist() == [[1, -1], [1, -1]]
    b = tensor([True, False])
    assert b.add_(tensor([True, True])).tolist() == [True, True]


def test_a_tensor_may_be_added_to_itself_and_to_its_views() -> None:
    x = gpucnn.arange(6).reshape(2, 3).float()
    x.add_(x)
    assert x.tolist() == [[0, 2, 4], [6, 8, 10]]
    x[0].mul_(x[1])
    assert x.tolist() == [[0, 16, 40], [6, 8, 10]]
    x.copy_(x.flatten().reshape(3, 2).t())
    assert x.tolist() == [[0, 40, 8], [16, 6, 10]]
    long = gpucnn.arange(300_000)
    long[1:].add_(long[:-1])
    long[2:] = long[:-2]
    expected = 2 * np.arange(300_000) - 1
    np.testing.assert_array_equal(long.numpy()[3:], expected[1:-2])
