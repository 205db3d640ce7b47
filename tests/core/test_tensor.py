"""What a tensor looks like, and how it meets Python and other libraries."""

from __future__ import annotations

import operator
import pickle
from typing import Any

import numpy as np
import pytest

import gpucnn
from gpucnn import Tensor, arange, ones, tensor, zeros

REPRESENTATIONS = [
    (lambda: tensor(1.5), "tensor(1.5)"),
    (lambda: tensor([[1.0, 2.0], [3.0, 4.5]]), "tensor([[1. , 2. ],\n        [3. , 4.5]])"),
    (lambda: tensor([1, 2]), "tensor([1, 2])"),
    (lambda: tensor([True, False]), "tensor([ True, False])"),
    (lambda: tensor([1.0], dtype="float64"), "tensor([1.], dtype=float64)"),
    (lambda: tensor([1, 2], dtype="int32"), "tensor([1, 2], dtype=int32)"),
    (lambda: tensor([1, 2], dtype="uint8"), "tensor([1, 2], dtype=uint8)"),
    (lambda: zeros(0, 3), "tensor([], shape=(0, 3))"),
    (lambda: tensor([1.0], requires_grad=True), "tensor([1.], requires_grad=True)"),
    (
        lambda: tensor([1.0], requires_grad=True) * 2,
        "tensor([2.], grad_fn=<MultiplyBackward>)",
    ),
    (lambda: tensor([1.23456789, 0.5]), "tensor([1.2346, 0.5   ])"),
    (lambda: tensor([1.5, 1e-4]), "tensor([1.5e+00, 1.0e-04])"),
]


@pytest.mark.parametrize(("make", "text"), REPRESENTATIONS, ids=[r[1] for r in REPRESENTATIONS])
def test_repr(make: Any, text: str) -> None:
    assert repr(make()) == text


def test_repr_of_a_large_tensor_is_short() -> None:
    text = repr(arange(100_000))
    assert text == "tensor([    0,     1,     2, ..., 99997, 99998, 99999])"


def test_sizes() -> None:
    x = ones(2, 3, 4)
    assert x.shape == (2, 3, 4) == x.size() and x.size(-1) == 4 and x.size(dim=0) == 2
    assert (x.ndim, x.dim(), x.numel(), len(x)) == (3, 3, 24, 2)
    assert x.is_leaf and x.is_floating_point() and not x.long().is_floating_point()
    with pytest.raises(TypeError, match="^len: a 0-d tensor has no length$"):
        len(tensor(1.0))


def test_item_and_tolist() -> None:
    assert tensor([[2.5]]).item() == 2.5 and isinstance(tensor(2).item(), int)
    assert tensor(True).item() is True
    assert tensor([[1, 2], [3, 4]]).T.tolist() == [[1, 3], [2, 4]]
    assert tensor(7).tolist() == 7 and zeros(0, 2).tolist() == []
    assert (tensor([2.0], requires_grad=True) * 2).item() == 4
    with pytest.raises(ValueError) as error:
        ones(2, 3).item()
    assert str(error.value) == "item: the tensor has 6 elements, shape (2, 3)"


def test_as_a_python_number() -> None:
    x = tensor([3])
    assert int(x) == 3 and float(x) == 3.0 and bool(x) and not bool(tensor(0.0))
    assert [10, 20, 30, 40][x] == 40 and operator.index(tensor(5, dtype="uint8")) == 5
    assert list(range(tensor(3))) == [0, 1, 2]
    assert f"{tensor(1.23456):.2f}" == "1.23" and f"{tensor(7):03d}" == "007"
    assert f"{tensor([1.0])}" == "tensor([1.])"
    for wrong in (tensor(1.0), tensor([1, 2])):
        with pytest.raises(TypeError, match="^index: only an integer tensor of one element can be"):
            operator.index(wrong)
    with pytest.raises(ValueError) as error:
        bool(tensor([1, 2]))
    assert str(error.value) == (
        "bool: a tensor of shape (2,) has no single truth value; use .item() on one element"
    )


def test_iteration_and_membership() -> None:
    x = tensor([[1, 2], [3, 4]])
    assert [row.tolist() for row in x] == [[1, 2], [3, 4]]
    a, b = x
    assert a.tolist() == [1, 2] and np.shares_memory(b.data, x.data)
    assert 3 in x[1] and 5 not in x[1]
    with pytest.raises(TypeError):
        iter(tensor(1.0))
    weights = tensor([1.0, 2.0], requires_grad=True)
    sum(w * w for w in weights).backward()
    assert weights.grad.tolist() == [2, 4]


def test_identity_as_a_key() -> None:
    x, y = ones(2), ones(2)
    assert len({x, y, x}) == 2 and {x: 1}[x] == 1
    assert (x == None) is False and (x != None) is True  # noqa: E711


def test_data_and_numpy_share_memory() -> None:
    x = zeros(2, 3)
    assert isinstance(x.data, np.ndarray) and x.numpy() is x.data
    x.data[0, 1] = 5
    assert x.tolist() == [[0, 5, 0], [0, 0, 0]]
    assert x.cpu() is x and x.detach().data is x.data
    with pytest.raises(RuntimeError) as error:
        tensor([1.0], requires_grad=True).numpy()
    assert str(error.value) == "numpy: the tensor requires grad; call .detach().numpy()"


def test_array_protocol() -> None:
    x = tensor([1.0, 2.0], requires_grad=True)
    assert np.shares_memory(np.asarray(x), x.data)
    assert not np.shares_memory(np.array(x), x.data)
    assert np.asarray(x, dtype=np.float64).dtype == np.float64
    assert np.linalg.norm(x) == np.float32(5**0.5) and np.stack([x, x]).shape == (2, 2)
    # NumPy 2's `copy=`, as NumPy calls it.
    assert np.shares_memory(x.__array__(), x.data)
    assert np.shares_memory(x.__array__(copy=None), x.data)
    assert np.shares_memory(x.__array__(copy=False), x.data)
    assert np.shares_memory(x.__array__(np.float32, copy=False), x.data)
    assert not np.shares_memory(x.__array__(copy=True), x.data)
    assert x.__array__(np.float64, copy=True).dtype == np.float64
    with pytest.raises(ValueError) as error:
        x.__array__(np.float64, copy=False)
    assert str(error.value) == "__array__: a copy is needed but copy=False was asked for"
    if np.lib.NumpyVersion(np.__version__) >= "2.0.0":
        assert np.shares_memory(np.array(x, copy=False), x.data)


def test_a_copy_keeps_the_memory_order() -> None:
    x = gpucnn.empty(2, 3, 4, 5, order=(0, 2, 3, 1))
    assert np.array(x, copy=True).strides == x.data.strides


def test_dlpack_with_numpy() -> None:
    x = tensor([[1.0, 2.0], [3.0, 4.0]])
    array = np.from_dlpack(x)
    assert np.shares_memory(array, x.data) and x.__dlpack_device__() == (1, 0)
    source = np.arange(6, dtype=np.int64).reshape(2, 3)[:, ::2]
    y = gpucnn.from_dlpack(source)
    assert np.shares_memory(y.data, source) and y.tolist() == [[0, 2], [3, 5]]
    with pytest.raises(RuntimeError) as error:
        np.from_dlpack(tensor([1.0], requires_grad=True))
    assert str(error.value) == "__dlpack__: the tensor requires grad; call .detach() first"
    with pytest.raises(TypeError, match="^from_dlpack: dtype must be one of .*, got int16$"):
        gpucnn.from_dlpack(np.ones(2, np.int16))


def test_dlpack_with_torch() -> None:
    torch = pytest.importorskip("torch")
    theirs = torch.arange(6.0).reshape(2, 3).T
    ours = gpucnn.from_dlpack(theirs)
    ours.data[0, 1] = 50
    assert theirs[0, 1].item() == 50 and ours.shape == (3, 2)
    back = torch.from_dlpack(gpucnn.from_dlpack(theirs))
    back[0, 0] = -1
    assert theirs[0, 0].item() == -1
    assert torch.from_dlpack(tensor([True, False])).tolist() == [True, False]
    assert tensor(theirs).tolist() == theirs.tolist()


def test_no_cuda_array_interface_on_the_host() -> None:
    x = ones(2)
    assert not hasattr(x, "__cuda_array_interface__")
    with pytest.raises(AttributeError) as error:
        x.__cuda_array_interface__  # noqa: B018
    assert str(error.value) == "__cuda_array_interface__: the tensor is on cpu"


def test_pickle() -> None:
    x = tensor([[1.0, 2.0]], dtype="float64", requires_grad=True)
    (x * x).sum().backward()
    twin = pickle.loads(pickle.dumps(x))
    assert isinstance(twin, Tensor) and twin.tolist() == x.tolist() and twin.requires_grad
    assert twin.device is x.device and twin.grad.tolist() == x.grad.tolist()


def test_to() -> None:
    x = tensor([1.5, 2.5])
    assert x.to(gpucnn.float32) is x and x.to("cpu") is x and x.to(x) is x
    assert x.to(gpucnn.int64).tolist() == [1, 2] and x.to(dtype=int).dtype == np.int64
    both = x.to("cpu", gpucnn.float64, non_blocking=True)
    assert both.dtype == np.float64 and both.data is not x.data
    assert x.to("cpu", copy=True).data is not x.data
    assert x.to(tensor([1], dtype="int32")).dtype == np.int32
    assert x.double().float().long().dtype == np.int64
    with pytest.raises(TypeError, match="^to: dtype must be one of .*, got 3$"):
        x.to(3)
    leaf = tensor([1.0, 2.0], requires_grad=True)
    (leaf.double() * leaf.to(gpucnn.float64)).sum().backward()
    assert leaf.grad.tolist() == [2, 4] and leaf.grad.dtype == np.float32
