"""Functions that users write, and the check of their gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpucnn
from gpucnn import Function, Tensor, gradcheck, tensor


def leaf(*values: float) -> Tensor:
    return tensor(list(values), dtype="float64", requires_grad=True)


class SumAndProduct(Function):
    """Two outputs of two inputs."""

    received: list[Any] = []

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(a, b)
        return a + b, a * b

    @staticmethod
    def backward(ctx: Any, d_sum: Tensor, d_product: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        SumAndProduct.received.append((d_sum, d_product))
        return d_sum + d_product * b, d_sum + d_product * a


def test_several_outputs() -> None:
    a, b = leaf(2.0, 3.0), leaf(5.0, 7.0)
    total, product = SumAndProduct.apply(a, b)
    assert repr(total.grad_fn) == "<SumAndProductBackward>"
    (total * product).sum().backward()
    assert a.grad.tolist() == [10 + 7 * 5, 21 + 10 * 7]
    assert gradcheck(SumAndProduct.apply, [leaf(1.0, -2.0), leaf(0.5, 4.0)])


def test_an_unused_output_has_a_gradient_of_zeros() -> None:
    a, b = leaf(2.0), leaf(5.0)
    _, product = SumAndProduct.apply(a, b)
    product.backward()
    d_sum, d_product = SumAndProduct.received[-1]
    assert d_sum.tolist() == [0] and d_product.tolist() == [1] and a.grad.tolist() == [5]


def test_a_retained_output_without_a_gradient_has_none() -> None:
    total, product = SumAndProduct.apply(leaf(2.0), leaf(5.0))
    total.retain_grad()
    product.retain_grad()
    product.backward()
    assert total.grad is None and product.grad.tolist() == [1]


class Scale(Function):
    """An argument that is no tensor, an absent one, a whole number beside the result."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float, absent: Tensor | None) -> Any:
        ctx.save_for_backward(x, absent)
        ctx.factor = factor
        return x * factor, x.argmax()

    @staticmethod
    def backward(ctx: Any, dy: Tensor, d_index: None) -> Any:
        assert d_index is None and ctx.saved_tensors[1] is None
        assert ctx.needs_input_grad == (True, False, False)
        return dy * ctx.factor, None, None


def test_numbers_none_and_whole_outputs() -> None:
    x = leaf(1.0, 4.0, 2.0)
    y, index = Scale.apply(x, 3.0, None)
    assert y.requires_grad and not index.requires_grad and index.item() == 1
    y.sum().backward()
    assert x.grad.tolist() == [3, 3, 3]


def test_nothing_is_recorded_without_need() -> None:
    x = tensor([1.0, 2.0])
    assert not Scale.apply(x, 3.0, None)[0].requires_grad
    with gpucnn.no_grad():
        assert Scale.apply(leaf(1.0), 3.0, None)[0].grad_fn is None


class Identity(Function):
    """Returns its very input; doubles the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        return dy * 2


def test_an_input_that_is_returned_keeps_its_history() -> None:
    x = leaf(1.0, 2.0)
    y = Identity.apply(x)
    assert y is not x and x.is_leaf and not y.is_leaf and y.data is x.data
    (y * 3).sum().backward()
    assert x.grad.tolist() == [6, 6]


class Stops(Function):
    """No gradient for its argument."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 1

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> None:
        return None


def test_none_stops_the_gradient() -> None:
    x = leaf(1.0)
    (Stops.apply(x) + x).backward()
    assert x.grad.tolist() == [1]


def returning(*gradients: Any) -> type[Function]:
    """A function of one argument whose backward returns these."""

    class Returning(Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 1

        @staticmethod
        def backward(ctx: Any, dy: Tensor) -> Any:
            return gradients

    return Returning


@pytest.mark.parametrize(
    ("gradients", "text"),
    [
        ((None, None), "Returning.backward: returned 2 gradients for 1 arguments of forward"),
        ((), "Returning.backward: returned 0 gradients for 1 arguments of forward"),
        ((tensor([1.0]),), "Returning.backward: gradient (1,) for an argument of shape (2,)"),
        ((1.0,), "Returning.backward: gradient float for an argument of shape (2,)"),
    ],
)
def test_wrong_gradients_are_refused(gradients: Any, text: str) -> None:
    y = returning(*gradients).apply(leaf(1.0, 2.0)).sum()
    with pytest.raises(RuntimeError) as error:
        y.backward()
    assert str(error.value) == text
    assert gpucnn.is_grad_enabled()


def test_a_gradient_of_another_dtype_is_cast() -> None:
    x = leaf(1.0, 2.0)
    y = x.exp()
    returning(tensor([2.0, 3.0], dtype="float32")).apply(y).sum().backward()
    assert x.grad.dtype == np.float64
    np.testing.assert_allclose(x.grad.numpy(), [2 * np.e, 3 * np.e**2], rtol=1e-6)


def test_what_is_not_written_or_not_returned_is_said() -> None:
    class Empty(Function):
        pass

    class Number(Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Any:
            return 1.0

    with pytest.raises(NotImplementedError) as missing:
        Empty.apply(leaf(1.0))
    assert str(missing.value) == "Function: write a static method forward(ctx, ...)"
    assert gpucnn.is_grad_enabled()
    with pytest.raises(TypeError) as wrong:
        Number.apply(leaf(1.0))
    assert str(wrong.value) == "Number.forward: must return tensors, got float"


class Cube(Function):
    """x^3 with a gradient that is right, or wrong by a factor in one element."""

    factor = 1.0

    @classmethod
    def with_error(cls, factor: float) -> type[Function]:
        return type("Cube", (cls,), {"factor": factor})

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x * x

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        dx = 3 * x * x * dy
        dx[1] = dx[1] * type(ctx).factor
        return dx


def test_gradcheck_finds_a_wrong_gradient() -> None:
    assert gradcheck(Cube.apply, leaf(1.0, 2.0, 3.0))
    for factor in (0.99, -1.0, 0.0):
        with pytest.raises(AssertionError, match=r"^gradcheck: input 0 of shape \(3,\): the grad"):
            gradcheck(Cube.with_error(factor).apply, leaf(1.0, 2.0, 3.0))


def test_gradcheck_needs_something_to_check() -> None:
    with pytest.raises(ValueError) as error:
        gradcheck(Cube.apply, tensor([1.0], requires_grad=True))
    assert str(error.value) == "gradcheck: no input is a float64 tensor that requires grad"


def test_gradcheck_of_several_inputs_and_outputs() -> None:
    def function(x: Tensor, scale: float, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return (x * y).sum(0), (x.exp() * scale).mean(), y.argmax()

    x = tensor(np.arange(6.0).reshape(2, 3) / 7, requires_grad=True)
    assert gradcheck(function, [x, 0.5, leaf(1.0, -2.0, 0.5)])
