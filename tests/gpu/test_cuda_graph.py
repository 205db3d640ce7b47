"""Capture through CuPy's streams, against a driver that knows the rules."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpucnn
from gpucnn import backends, models, optim
from gpucnn.backends.gpu import GpuBackend
from gpucnn.core.device import Device
from gpucnn.nn import functional as F

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("cupy") is None, reason="needs CuPy (not a GPU)"
)


@pytest.fixture
def runtime() -> Any:
    from fake_streams import CapturingCuda

    made = CapturingCuda()
    with backends.serving(Device("cuda:0"), GpuBackend(made)):
        yield made


def training_step(name: str) -> tuple[Callable[..., Any], Callable[[int], tuple[Any, Any]]]:
    model = models.create(name).to("cuda:0")
    optimizer = optim.SGD(model.parameters(), 0.1, 0.9)

    @gpucnn.capture
    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    def batch(images: int) -> tuple[Any, Any]:
        x = gpucnn.zeros(images, 1, 28, 28, device="cuda:0")
        return x, gpucnn.zeros(images, dtype="int64", device="cuda:0")

    return step, batch


def test_a_step_becomes_one_graph_that_allocates_nothing(runtime: Any) -> None:
    step, batch = training_step("lenet5")
    x, y = batch(8)
    step(x, y)  # as it is
    step(x, y)  # recorded
    before = len(runtime.launches)
    step(x, y)  # once for real on the capturing stream, then captured
    first = runtime.launches[before:]
    pool = [p for p in runtime.driver.pools]
    assert len(pool) == 1  # the private one is no longer in force
    assert step.launches == len(first) - 2  # the copies of the two arguments are not in the graph
    blocks = pool[0].from_driver
    before = len(runtime.launches)
    step(x, y)
    again = runtime.launches[before:]
    assert pool[0].from_driver == blocks
    assert again == first


def test_the_streams_wait_for_each_other(runtime: Any) -> None:
    step, batch = training_step("lenet5")
    for _ in range(3):
        step(*batch(4))
    default = runtime.driver.streams[0]
    (capturing,) = default.waited
    assert capturing.waited == [default] and capturing.non_blocking


def test_each_batch_shape_has_a_graph_of_its_own(runtime: Any) -> None:
    step, batch = training_step("lenet5")
    for images in (4, 4, 4, 6, 6, 6, 4, 6):
        step(*batch(images))
    assert len(step._recordings) == 2


def test_waiting_for_each_launch_makes_no_graph(runtime: Any) -> None:
    runtime.synchronous = True
    runtime._cupy = runtime.driver  # whose current stream is waited for
    runtime._cupy.ndarray = runtime._real.ndarray
    step, batch = training_step("lenet5")
    x, y = batch(4)
    for _ in range(4):
        step(x, y)
    assert step.launches and step.reason is None


@pytest.mark.parametrize(
    ("name", "breaking"),
    [
        ("copy to the host", lambda rt, x: rt.to_host(x)),
        ("copy from the host", lambda rt, x: rt.from_host(np.zeros(3, np.float32))),
        ("allocate memory", lambda rt, x: rt.empty((len(rt.launches) + 12345,), np.float32)),
        ("synchronize", lambda rt, x: rt.synchronize()),
    ],
)
def test_the_rules_hold(runtime: Any, name: str, breaking: Callable[[Any, Any], Any]) -> None:
    """The fake refuses what a driver refuses: a test that passes here has a meaning."""
    from fake_streams import CaptureError

    x = runtime.empty((4,), np.float32)
    count = iter(range(2))

    def run() -> None:
        if next(count):  # the first time is the warm-up, where all of it is allowed
            breaking(runtime, x)

    with pytest.raises(CaptureError, match=f"cannot {name}"):
        runtime.capture(run)
    assert runtime.driver.streams[0].captured is None and len(runtime.driver.streams) == 1
