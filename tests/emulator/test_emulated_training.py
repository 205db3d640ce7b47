"""A training step of LeNet-5 on the emulated device: the cpu's numbers, whatever the order."""

from __future__ import annotations

import numpy as np
import pytest

import gpucnn
from gpucnn import backends, nn, optim
from gpucnn.backends.gpu import GpuBackend, nvrtc
from gpucnn.backends.gpu.emulated import EmulatedRuntime
from gpucnn.cases.compare import assert_close
from gpucnn.core.device import Device
from gpucnn.emulator import LOWEST_FIRST, RandomSchedule, Schedule
from gpucnn.nn import functional as F

if not nvrtc.compilers():
    pytest.skip("no NVRTC to make PTX", allow_module_level=True)


def lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


def step(device: str) -> dict[str, np.ndarray]:
    """Loss, gradients, dropout mask and updated parameters of one step at batch 8."""
    rng = np.random.default_rng(5)
    images = rng.standard_normal((8, 1, 28, 28)).astype(np.float32)
    labels = rng.integers(0, 10, 8)
    gpucnn.manual_seed(3)
    model = lenet().to(device)
    seen: dict[str, np.ndarray] = {}
    dropout = next(m for m in model.modules() if isinstance(m, nn.Dropout))
    dropout.register_forward_hook(
        lambda module, inputs, output: seen.update(mask=np.asarray(output) != 0)
    )
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer.zero_grad()
    logits = model(gpucnn.tensor(images, device=device))
    loss = F.cross_entropy(logits, gpucnn.tensor(labels, device=device))
    loss.backward()
    seen["loss"] = np.asarray(loss)
    for name, parameter in model.named_parameters():
        seen[f"gradient {name}"] = np.asarray(parameter.grad).copy()
    optimizer.step()
    for name, parameter in model.named_parameters():
        seen[f"updated {name}"] = np.asarray(parameter).copy()
    return seen


def emulated(schedule: Schedule) -> dict[str, np.ndarray]:
    runtime = EmulatedRuntime(schedule=schedule)
    with backends.serving(Device("emulated"), GpuBackend(runtime)):
        return step("emulated")


@pytest.fixture(scope="module")
def in_order() -> dict[str, np.ndarray]:
    return emulated(LOWEST_FIRST)


def test_it_agrees_with_the_cpu(in_order: dict[str, np.ndarray]) -> None:
    expected = step("cpu")
    assert sorted(expected) == sorted(in_order)
    assert abs(float(in_order["loss"]) - float(expected["loss"])) <= 1e-5
    np.testing.assert_array_equal(in_order["mask"], expected["mask"])
    for name, value in expected.items():
        if name.startswith(("gradient", "updated")):
            assert_close(in_order[name], value, 1e-4, name)


@pytest.mark.parametrize("seed", range(2))
def test_the_order_of_warps_and_blocks_changes_no_bit(
    in_order: dict[str, np.ndarray], seed: int
) -> None:
    other = emulated(RandomSchedule(seed))
    for name, value in in_order.items():
        assert value.tobytes() == other[name].tobytes(), name
