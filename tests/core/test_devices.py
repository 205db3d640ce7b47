"""Devices by name, the default, what is not there, and that nothing moves by itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

import gpucnn
from gpucnn import backends, device, ones, tensor
from gpucnn.backends.cpu import CpuBackend
from gpucnn.nn import functional as F

EMULATED = device("emulated")


@pytest.fixture
def elsewhere() -> Iterator[gpucnn.device]:
    """A second device: host memory under another name."""
    with backends.serving(EMULATED, CpuBackend()):
        yield EMULATED


def test_names() -> None:
    assert str(device("cpu")) == "cpu" and repr(device("cuda")) == "device('cuda:0')"
    assert device("cuda") is device("cuda:0") is device("cuda", 0) is device(device("cuda"))
    assert device("cuda:3") is device("cuda", 3) and device("cuda:3").index == 3
    assert device("cuda:1") != device("cuda") and device("cpu").type == "cpu"
    assert (device("cpu").type, device("cpu").index) == ("cpu", 0)


@pytest.mark.parametrize("name", ["", "gpu", "cuda:", "cuda:-1", "cuda:a", "cpu:x", "CPU"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(ValueError) as error:
        device(name)
    expected = f"device: {name!r} is not one of 'cpu', 'cuda', 'cuda:N', 'emulated'"
    assert str(error.value) == expected


def test_wrong_kinds_of_names() -> None:
    with pytest.raises(ValueError, match="^device: cpu has no index, got 'cpu:1'$"):
        device("cpu:1")
    with pytest.raises(TypeError) as error:
        device(0)
    assert str(error.value) == "device: expected a name such as 'cpu' or 'cuda:0', got 0"


def test_default_device(elsewhere: gpucnn.device) -> None:
    before = gpucnn.default_device()
    try:
        gpucnn.set_default_device("emulated")
        assert ones(2).device is elsewhere and tensor([1]).device is elsewhere
        assert gpucnn.rand(2).device is elsewhere and gpucnn.arange(3).device is elsewhere
        assert gpucnn.from_numpy(np.ones(2)).device is device("cpu")
        assert ones(2, device="cpu").device is device("cpu")
    finally:
        gpucnn.set_default_device(before)


def _python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_environment_variable() -> None:
    show = "import gpucnn; print(gpucnn.ones(1).device)"
    assert _python(show, GPUCNN_DEVICE="cpu").stdout == "cpu\n"
    wrong = _python(show, GPUCNN_DEVICE="fpga").stderr.splitlines()[-1]
    assert wrong == (
        "ValueError: GPUCNN_DEVICE: device: 'fpga' is not one of 'cpu', 'cuda', 'cuda:N', "
        "'emulated'"
    )


def test_a_device_that_is_not_there_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_backends", {})
    monkeypatch.setattr(backends, "why_unavailable", lambda kind: f"no {kind} in this test")
    assert gpucnn.cuda.is_available() is False
    assert gpucnn.cuda.why_not() == "no cuda in this test"
    for move in (
        lambda: ones(2, device="cpu").cuda(),
        lambda: ones(2, device="cpu").to("cuda"),
        lambda: ones(2, device="cuda"),
        lambda: gpucnn.cuda.synchronize(),
    ):
        with pytest.raises(RuntimeError) as error:
            move()
        assert str(error.value) == "device cuda:0 is not available: no cuda in this test"
    with pytest.raises(RuntimeError, match="^device cuda:2 is not available: "):
        ones(2, device="cpu").cuda(2)


def test_the_reason_is_a_sentence_here() -> None:
    reason = gpucnn.cuda.why_not()
    assert (reason is None) == gpucnn.cuda.is_available()
    assert reason is None or len(reason) > 10


def test_moving(elsewhere: gpucnn.device) -> None:
    x = tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    y = x.to("emulated")
    assert y.device is elsewhere and y.to(elsewhere) is y
    assert not np.shares_memory(y.data, x.data)
    (y * y).sum().backward()
    assert x.grad.device is x.device and x.grad.tolist() == [[2, 4], [6, 8]]
    assert repr(y.detach()) == "tensor([[1., 2.],\n        [3., 4.]], device='emulated')"
    assert y.cpu().device is device("cpu") and y.detach().numpy().tolist() == x.tolist()
    assert ones(2, device=elsewhere).copy_(ones(2)).device is elsewhere  # copy_ may cross
    with pytest.raises(ValueError, match="^__array__: a copy is needed"):
        y.__array__(copy=False)


def test_devices_do_not_mix(elsewhere: gpucnn.device) -> None:
    here, there = ones(2, 3), ones(2, 3, device=elsewhere)
    image, filters = ones(1, 2, 3, 3), ones(1, 2, 3, 3, device=elsewhere)
    labels = tensor([0, 1], device=elsewhere)
    calls = {
        "add: input is on cpu but other is on emulated": lambda: here + there,
        "less: input is on emulated but other is on cpu": lambda: there < here,
        "add_: self is on cpu but other is on emulated": lambda: here.add_(there),
        "matmul: input is on cpu but other is on emulated": lambda: here @ there.T,
        "conv2d: input is on cpu but weight is on emulated": lambda: F.conv2d(image, filters),
        "linear: input is on cpu but weight is on emulated": lambda: F.linear(here, there),
        "cat: tensors[0] is on cpu but tensors[1] is on emulated": lambda: gpucnn.cat(
            [here, there]
        ),
        "cross_entropy: input is on cpu but target is on emulated": lambda: F.cross_entropy(
            here, labels
        ),
        "where: condition is on emulated but input is on cpu": lambda: gpucnn.where(
            there > 0, here, 0.0
        ),
        "index_select: input is on cpu but index is on emulated": lambda: here.index_select(
            0, labels
        ),
        "batch_norm: input is on cpu but weight is on emulated": lambda: F.batch_norm(
            here, None, None, ones(3, device=elsewhere), training=True
        ),
        "setitem: input is on cpu but key is on emulated": lambda: here.__setitem__(there > 0, 1),
    }
    for text, call in calls.items():
        with pytest.raises(RuntimeError) as error:
            call()
        assert str(error.value) == f"{text}; move one with .to(...)"
    with pytest.raises(RuntimeError) as error:
        here[labels]
    assert str(error.value) == "getitem: input is on cpu but the index on emulated"
    (here.requires_grad_() * 1).sum().backward()
    with pytest.raises(RuntimeError, match=r"^backward: gradient of shape \(2, 3\) on emulated "):
        (here * 1).backward(there)


def test_work_on_another_device_stays_there(elsewhere: gpucnn.device) -> None:
    x = gpucnn.randn(2, 3, 6, 6, device=elsewhere, requires_grad=True)
    w = gpucnn.randn(4, 3, 3, 3, device=elsewhere, requires_grad=True)
    y = F.max_pool2d(F.conv2d(x, w).relu(), 2).flatten(1)
    loss = F.cross_entropy(y, tensor([3, 5], device=elsewhere))
    loss.backward()
    picked = y[[0, 1], tensor([2, -1], device=elsewhere)]
    assert all(t.device is elsewhere for t in (y, loss, x.grad, w.grad, picked, picked.max()))
    assert picked.tolist() == y.detach().numpy()[[0, 1], [2, -1]].tolist()
