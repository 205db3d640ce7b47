"""Indexing against NumPy, and the views, copies and gradients that come of it."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from needing_torch import where_installed

import gpucnn
from gpucnn import tensor

S = slice
MASK = np.arange(3) != 1
GRID = np.arange(12).reshape(3, 4) % 5 > 1

BASIC: list[Any] = [
    0, -1, S(None), S(1, None), S(None, -1), S(None, None, 2), S(None, None, -1), S(-1, 0, -2),
    S(5, 9), S(2, 1), Ellipsis, None, (0, 1), (1, S(None), 2), (Ellipsis, 0), (0, Ellipsis),
    (Ellipsis, S(None, None, -1), None), (None, 1, None, S(1, 3)), (S(None), None, -1),
    (0, 1, 2), (0, Ellipsis, 1, 2), (S(1, 2), S(None, None, -2), S(3, None, -1)), (),
    (None, None, Ellipsis), (np.int64(1), S(None)),
]  # fmt: skip

ADVANCED: list[Any] = [
    [0, 2], [2, 0, 0, -1], [], np.array([[0, 1], [2, -3]]), ([0, 1], [1, 3]),
    (S(None), [3, 0, 0]), (S(None), S(None), [1, -1]), (Ellipsis, [0]), ([0], Ellipsis),
    (S(None), [1, 2], [0, 0]), ([0, 2], S(None), [1, 1]), ([0, 2], S(1, 3), [[1], [2]]),
    ([[0], [1]], [0, 1, 2]), (S(None, None, -1), [0, 1]), ([1, 2], S(None, None, -2)),
    (None, [0, 1]), ([0, 1], None, [1, 2]), (S(None), None, [0, 1]), (1, [0, 2]), ([0, 2], 1),
    (S(None), 1, [0, 1]), (S(None), [0, 1], 1), (0, [1, 1], [2, 3]), (range(2), [0, 1]),
    MASK, (MASK, 0), (S(None), MASK[[0, 1, 2, 0]]), GRID, (GRID, [0, 1, 0, 1, 0, 1]),
    (MASK, [0, 3]), np.zeros(3, bool), np.ones((3, 4, 5), bool), (Ellipsis, np.arange(5) > 2),
    [True, False, True], (np.array(1), [0, 1]), ([0, 1], S(None), np.arange(5) > 2),
]  # fmt: skip
# An integer picks its element before the arrays do, as in PyTorch: NumPy, which counts it as an
# array, would put the axis of the arrays in front.
APART = [(0, S(None), [1, 2]), ([1, 2], S(None), -1), (1, Ellipsis, [0, 1]), (0, None, [1, 2])]


def array() -> np.ndarray[Any, Any]:
    return np.arange(60.0).reshape(3, 4, 5)


def layouts() -> dict[str, Any]:
    x = array()
    turned = np.ascontiguousarray(x.transpose(2, 0, 1)).transpose(1, 2, 0)
    wide = np.repeat(x, 2, axis=1)[:, ::2]
    return {"C": x, "transposed": turned, "strided": wide}


@pytest.mark.parametrize("layout", layouts())
@pytest.mark.parametrize("key", BASIC)
def test_basic(key: Any, layout: str) -> None:
    """NumPy's values, in a view of the same memory."""
    source = layouts()[layout]
    x = gpucnn.from_numpy(source)
    y = x[key]
    np.testing.assert_array_equal(y.numpy(), source[key])
    assert y.numel() == 0 or np.shares_memory(y.data, source)
    assert y._version is x._version


@pytest.mark.parametrize("layout", layouts())
@pytest.mark.parametrize("key", ADVANCED)
def test_advanced(key: Any, layout: str) -> None:
    """NumPy's values, in new memory."""
    source = layouts()[layout]
    y = gpucnn.from_numpy(source)[key]
    expected = source[tuple(key) if isinstance(key, range) else key]
    np.testing.assert_array_equal(y.numpy(), expected)
    assert not np.shares_memory(y.data, source)


@pytest.mark.parametrize("key", ADVANCED)
def test_tensors_as_indices(key: Any) -> None:
    entries = key if isinstance(key, tuple) else (key,)
    as_tensors = tuple(
        tensor(np.asarray(e, None if len(e) else np.int64))
        if isinstance(e, (list, range, np.ndarray)) and np.ndim(e)
        else e
        for e in entries
    )
    np.testing.assert_array_equal(tensor(array())[as_tensors].numpy(), array()[key])


@pytest.mark.parametrize("key", where_installed(APART))
def test_integers_come_before_arrays(key: Any) -> None:
    import torch

    expected = torch.tensor(array())[key].numpy()
    np.testing.assert_array_equal(tensor(array())[key].numpy(), expected)
    zero_d = tuple(tensor(e) if isinstance(e, int) else e for e in key)
    np.testing.assert_array_equal(tensor(array())[zero_d].numpy(), expected)


def test_every_pair_of_kinds() -> None:
    """All combinations of two entries on a matrix, where NumPy and PyTorch agree."""
    source = np.arange(20).reshape(4, 5)
    first = [1, -2, S(None), S(3, 0, -1), [0, 3], np.array([[1], [2]]), np.arange(4) > 1, None]
    second = [0, -1, S(1, 4), S(None, None, -2), [1, 3], [[0, 2]], Ellipsis, None]
    for key in itertools.product(first, second):
        np.testing.assert_array_equal(tensor(source)[key].numpy(), source[key], str(key))


@pytest.mark.parametrize("key", [*BASIC, *ADVANCED])
def test_gradients_add_up_where_elements_repeat(key: Any) -> None:
    source = array()
    x = tensor(source, requires_grad=True)
    y = x[key]
    upstream = np.random.default_rng(3).standard_normal(y.shape)
    expected = np.zeros_like(source)
    np.add.at(expected, key, upstream)
    if y.numel():
        y.backward(tensor(upstream))
        np.testing.assert_allclose(x.grad.numpy(), expected, atol=1e-14)


@pytest.mark.parametrize("value", ["number", "row", "tensor", "list"])
@pytest.mark.parametrize("key", [k for k in BASIC if array()[k].size])
def test_setitem(key: Any, value: str) -> None:
    expected, x = array(), tensor(array())
    shape = expected[key].shape
    given: Any = {
        "number": -1,
        "row": np.arange(shape[-1] if shape else 1.0).reshape(shape[-1:]),
        "tensor": np.arange(float(np.prod(shape, dtype=int))).reshape(shape),
        "list": [0.5] if shape else 0.5,
    }[value]
    expected[key] = given
    x[key] = tensor(given) if value == "tensor" else given
    np.testing.assert_array_equal(x.numpy(), expected)


@pytest.mark.parametrize("mask", [array() > 30, array() < 0, array() % 7 == 1], ids=["", "no", "7"])
def test_setitem_by_a_mask(mask: np.ndarray[Any, Any]) -> None:
    for value in (-1.5, tensor(3), tensor([2.5])):
        expected, x, y = array(), tensor(array()), tensor(array())
        expected[mask] = float(value)
        x[tensor(mask)] = value
        y[mask] = value
        np.testing.assert_array_equal(x.numpy(), expected)
        np.testing.assert_array_equal(y.numpy(), expected)


def test_setitem_casts_and_broadcasts_as_pytorch() -> None:
    x = gpucnn.zeros(2, 3, dtype="int64")
    x[0] = 1.75
    x[1] = tensor([2.5, -2.5, 3.0])
    assert x.tolist() == [[1, 1, 1], [2, -2, 3]]
    x[:, ::2] = tensor([[7], [8]], dtype="int32")
    assert x.tolist() == [[7, 1, 7], [8, -2, 8]]


def test_views_share_memory_and_version() -> None:
    x = gpucnn.zeros(2, 3, 4)
    views = [
        x[1], x[:, ::-1], x.reshape(6, 4), x.view(24), x.permute(2, 0, 1), x.transpose(0, 1),
        x.unsqueeze(0), x[:1].squeeze(0), x.flatten(1), x[:, :, :1].expand(2, 3, 9), x.detach(),
        x[0].T, x[0].t(),
    ]  # fmt: skip
    for number, y in enumerate(views):
        assert np.shares_memory(y.data, x.data) and y._version is x._version, number
    views[0][0, 0] = 5.0
    assert x.sum().item() == 5 and x._version == [1]
    copied = x.transpose(0, 1).reshape(24)  # no view can do that
    assert not np.shares_memory(copied.data, x.data) and copied._version is not x._version


@pytest.mark.parametrize("seed", range(40))
def test_reshape_makes_a_view_wherever_numpy_does(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.choice([1, 2, 3, 4], rng.integers(1, 5)))
    source = np.zeros([2 * n for n in shape])[tuple(S(None, None, int(s)) for s in
                                                   rng.choice([2, -2], len(shape)))]  # fmt: skip
    if rng.random() < 0.7:
        source = np.zeros(shape)
    source = source.transpose(rng.permutation(source.ndim))
    factors = [f for n in shape for f in ((2, 2) if n == 4 else (n,))]
    rng.shuffle(factors)
    cut = int(rng.integers(0, len(factors) + 1))
    target = (int(np.prod(factors[:cut], dtype=int)), *factors[cut:])
    y = gpucnn.from_numpy(source).reshape(target)
    assert np.shares_memory(y.data, source) == np.shares_memory(source.reshape(target), source)
    assert y.shape == target
