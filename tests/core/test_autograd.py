"""The graph: what is recorded, what a backward pass gives, frees and refuses."""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from typing import Any

import numpy as np
import pytest

import gpucnn
from gpucnn import Tensor, tensor


def leaf(*values: float) -> Tensor:
    return tensor(list(values), requires_grad=True)


def test_gradients_add_up_over_calls() -> None:
    x = leaf(1.0, 2.0)
    (x * 3).sum().backward()
    first = x.grad
    (x * x).sum().backward()
    assert x.grad is first and x.grad.tolist() == [5, 7]


def test_a_gradient_is_a_copy_of_its_own() -> None:
    x, y = leaf(1.0, 2.0), leaf(3.0, 4.0)
    given = tensor([1.0, 1.0])
    (x + y).backward(given)
    x.grad.zero_()
    assert y.grad.tolist() == [1, 1] and given.tolist() == [1, 1]


def test_diamonds_and_repeated_use() -> None:
    x = leaf(3.0)
    a = x * x  # 9
    b = a + x  # 12
    (a * b * a).sum().backward()  # x^4 (x^2 + x): 6 x^5 + 5 x^4
    assert x.grad.item() == 6 * 3**5 + 5 * 3**4


def test_a_leaf_itself_and_a_root_with_a_gradient() -> None:
    x = leaf(1.0, 2.0)
    x.backward(tensor([0.5, 4.0]))
    assert x.grad.tolist() == [0.5, 4]


@pytest.mark.parametrize("depth", [20_000])
def test_depth_costs_no_recursion(depth: int) -> None:
    x = leaf(1.0)
    y = x
    for _ in range(depth):
        y = y + x
    y.backward()
    assert x.grad.item() == depth + 1
    del y  # freeing the chain must not recurse either


def test_no_grad_and_enable_grad_nest_and_decorate() -> None:
    x = leaf(1.0)

    @gpucnn.no_grad()
    def silent() -> Tensor:
        """What it says."""
        return x * 2

    @gpucnn.enable_grad()
    def recorded() -> Tensor:
        return x * 2

    assert silent.__doc__ == "What it says." and not silent().requires_grad
    with gpucnn.no_grad():
        assert not gpucnn.is_grad_enabled() and not (x * 2).requires_grad
        assert recorded().requires_grad
        with gpucnn.enable_grad():
            assert (x * 2).requires_grad
        assert not gpucnn.is_grad_enabled()
    assert gpucnn.is_grad_enabled()
    with pytest.raises(KeyError), gpucnn.no_grad():
        raise KeyError
    assert gpucnn.is_grad_enabled()


def test_a_view_under_no_grad_is_outside_the_graph() -> None:
    x = leaf(1.0, 2.0)
    with gpucnn.no_grad():
        same_shape, other_shape = x.reshape(2), x.reshape(2, 1)
    assert not same_shape.requires_grad and not other_shape.requires_grad


def test_recording_is_switched_per_thread() -> None:
    x = leaf(1.0)
    inside, done = threading.Event(), threading.Event()
    seen: list[bool] = []

    def other() -> None:
        seen.append((x * 2).requires_grad)
        with gpucnn.no_grad():
            inside.set()
            done.wait(10)
            seen.append((x * 2).requires_grad)

    with gpucnn.no_grad():
        thread = threading.Thread(target=other)
        thread.start()
        assert inside.wait(10)
    assert (x * 2).requires_grad  # the other thread is inside no_grad now
    done.set()
    thread.join()
    assert seen == [True, False]


def test_backward_in_several_threads() -> None:
    leaves = [leaf(float(i)) for i in range(8)]

    def work(x: Tensor) -> None:
        for _ in range(50):
            (x * x).backward()

    threads = [threading.Thread(target=work, args=(x,)) for x in leaves]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [x.grad.item() for x in leaves] == [100 * i for i in range(8)]


def test_a_second_backward_needs_retain_graph() -> None:
    x = leaf(2.0)
    y = x * x
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.item() == 8
    with pytest.raises(RuntimeError) as error:
        y.backward()
    assert str(error.value) == (
        "backward: the graph was freed by an earlier backward; "
        "call backward(retain_graph=True) the first time"
    )
    z = x + 1.0  # saves nothing: nothing is freed
    z.backward()
    z.backward()


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (
            lambda x: (x * x).sum().backward(create_graph=True),
            RuntimeError,
            "backward: create_graph (gradients of gradients) is not supported",
        ),
        (
            lambda x: tensor(1.0).backward(),
            RuntimeError,
            "backward: the tensor does not require grad and has no graph",
        ),
        (
            lambda x: (x * 2).backward(),
            RuntimeError,
            "backward: a tensor of shape (2,) needs an explicit gradient; only one element has "
            "an implicit one",
        ),
        (
            lambda x: (x * 2).backward(tensor([1.0])),
            RuntimeError,
            "backward: gradient of shape (1,) on cpu for a tensor of shape (2,) on cpu",
        ),
        (
            lambda x: (x * 2).backward(1.0),
            TypeError,
            "backward: gradient must be a Tensor, got float",
        ),
        (
            lambda x: gpucnn.grad((x * 2).sum(), leaf(1.0)),
            RuntimeError,
            "grad: input 0 is not part of the graph of the output",
        ),
        (
            lambda x: gpucnn.grad([x.sum(), x.sum()], x, [tensor(1.0)]),
            RuntimeError,
            "grad: 1 grad_outputs for 2 outputs",
        ),
        (
            lambda x: tensor(1.0).retain_grad(),
            RuntimeError,
            "retain_grad: the tensor does not require grad",
        ),
        (
            lambda x: (x * 2).requires_grad_(False),
            RuntimeError,
            "requires_grad_: only for leaves; use .detach()",
        ),
        (
            lambda x: copy.deepcopy(x * 2),
            RuntimeError,
            "deepcopy: only a leaf can be copied; use .detach() or .clone()",
        ),
    ],
)
def test_refusals(call: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind) as error:
        call(leaf(1.0, 2.0))
    assert str(error.value) == text


def test_gradient_of_another_dtype_is_cast() -> None:
    x = leaf(1.0, 2.0)
    (x * 2).backward(tensor([1.0, 3.0], dtype="float64"))
    assert x.grad.dtype == np.float32 and x.grad.tolist() == [2, 6]
    wide = x.double() * x  # float32 and float64 meet
    wide.sum().backward()
    assert x.grad.dtype == np.float32 and x.grad.tolist() == [4, 10]


def test_retain_grad_keeps_a_non_leafs_gradient() -> None:
    x = leaf(1.0, 2.0)
    y = x * 3
    y.retain_grad()
    (y * y).sum().backward(retain_graph=True)
    assert y.grad.tolist() == [6, 12] and x.grad.tolist() == [18, 36]
    (y * y).sum().backward()
    assert y.grad.tolist() == [12, 24]  # it adds up, as a leaf's does
    z = x.sum()  # its gradient is a broadcast view on the way: what is kept can be changed
    w = z * x
    w.retain_grad()
    w.sum().backward()
    w.grad.zero_()


def test_grad_touches_no_leaf_and_runs_only_what_it_needs() -> None:
    x = leaf(1.0, 2.0)
    hidden = x * x
    loss = (hidden * 3).sum()
    (upstream,) = gpucnn.grad(loss, hidden)
    assert upstream.tolist() == [3, 3] and x.grad is None
    hidden.backward(upstream)  # the part below was neither run nor freed
    assert x.grad.tolist() == [6, 12]
    y = leaf(5.0)
    assert gpucnn.grad((x * 2).sum(), [x, y], allow_unused=True)[1] is None
    (same,) = gpucnn.grad(x, x, tensor([1.0, 2.0]))
    assert same.tolist() == [1, 2]


def test_grad_of_several_outputs_and_inputs() -> None:
    x, y = leaf(2.0), leaf(3.0)
    dx, dy = gpucnn.grad([x * y, x * x], [x, y], [tensor([1.0]), tensor([10.0])])
    assert (dx.item(), dy.item()) == (43, 2)


def test_no_cycle_keeps_a_graph_alive() -> None:
    gc.collect()
    gc.disable()
    try:
        x = gpucnn.randn(2, 3, 8, 8, requires_grad=True)
        w = gpucnn.randn(4, 3, 3, 3, requires_grad=True)
        y = gpucnn.nn.functional.conv2d(x, w)
        z = gpucnn.nn.functional.max_pool2d(y.relu(), 2).softmax(1)
        loss = (z * z).sum()
        loss.backward()
        watched = [weakref.ref(t) for t in (x, y, z, loss, loss.grad_fn)]
        del x, y, z, loss
        assert [reference() for reference in watched] == [None] * 5
    finally:
        gc.enable()


def test_deepcopy_of_a_leaf_stands_alone() -> None:
    x = leaf(1.0, 2.0)
    (x * x).sum().backward()
    twin = copy.deepcopy(x)
    assert twin.requires_grad and twin.grad.tolist() == [2, 4]
    twin.grad.zero_()
    with gpucnn.no_grad():
        twin.zero_()
    assert x.tolist() == [1, 2] and x.grad.tolist() == [2, 4]
    shared = copy.deepcopy([x, x])
    assert shared[0] is shared[1]


def test_ties_and_nan_share_the_gradient_of_an_extreme() -> None:
    for values, expected in (
        ([2.0, 2.0, 1.0], [0.5, 0.5, 0]),
        ([1.0, np.nan, 3.0, np.nan], [0, 0.5, 0, 0.5]),
    ):
        x = leaf(*values)
        x.max().backward()
        assert x.grad.tolist() == expected
    y = leaf(1.0, np.nan, 3.0)
    y.max(0).values.backward()
    assert y.grad.tolist() == [0, 1, 0]
