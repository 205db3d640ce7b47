"""nn and optim on a CUDA device without a driver: where memory lies and what is launched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cupy")

from fake_cuda import FakeCuda  # noqa: E402

import gpucnn  # noqa: E402
from gpucnn import backends, models, nn, optim  # noqa: E402
from gpucnn.backends.gpu import GpuBackend  # noqa: E402

CUDA = gpucnn.device("cuda:0")


@pytest.fixture
def runtime() -> Iterator[FakeCuda]:
    runtime = FakeCuda()
    with backends.serving(CUDA, GpuBackend(runtime)):
        yield runtime


def step(model: models.Model, optimizer: optim.Optimizer) -> None:
    device = next(model.parameters()).device
    x = gpucnn.randn(4, *model.input_shape, device=device)
    target = gpucnn.tensor([1, 2, 3, 4], device=device)
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), target).backward()
    optimizer.step()


@pytest.mark.parametrize(
    ("name", "options"), [("SGD", {"lr": 0.1, "momentum": 0.9}), ("Adam", {}), ("AdamW", {})]
)
def test_a_step_is_one_launch(runtime: FakeCuda, name: str, options: dict) -> None:
    model = models.create("lenet5").to("cuda")
    optimizer = getattr(optim, name)(model.parameters(), **options)
    step(model, optimizer)
    before = len(runtime.launches)
    optimizer.step()
    entries = Counter(launch.kernel.entry for launch in runtime.launches[before:])
    assert entries == {"sgd_update" if name == "SGD" else "adam_update": 1}


def test_flat_storage_is_views_of_aligned_device_memory(runtime: FakeCuda) -> None:
    model = models.create("digits_net").cuda()
    optim.SGD(model.parameters())
    first = next(model.parameters()).data
    for p in model.parameters():
        assert type(p.data).__module__.startswith("cupy")
        assert p.data.data.ptr % 256 == 0 and p.data.data.mem is first.data.mem
        assert p._grad_slot.data.data.ptr % 256 == 0 and p._grad_slot.order == p.order


def test_moving_to_and_fro_carries_parameters_and_state(runtime: FakeCuda) -> None:
    model = models.create("digits_net")
    optimizer = optim.Adam(model.parameters())
    step(model, optimizer)
    for place in ("cuda", "cpu"):
        model.to(place)
        step(model, optimizer)
        device = gpucnn.device(place)
        for p in model.parameters():
            tensors = [p, p.grad, *(optimizer.state[p][key] for key in ("exp_avg", "exp_avg_sq"))]
            assert all(t.device is device for t in tensors)
        assert {state["step"] for state in optimizer.state.values()} == {
            {"cuda": 2, "cpu": 3}[place]
        }


def test_initial_values_are_the_same_on_every_device(
    runtime: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a device gets is the host's numbers."""
    gpucnn.manual_seed(1)
    layer = nn.Linear(3, 2)
    gpucnn.manual_seed(1)
    sent: list[np.ndarray] = []
    real = runtime.from_host
    monkeypatch.setattr(
        runtime, "from_host", lambda array: sent.append(array.copy()) or real(array)
    )
    nn.Linear(3, 2, device="cuda")
    for value, parameter in zip(sent, layer.parameters(), strict=True):
        np.testing.assert_array_equal(value, parameter.detach().numpy())


def test_files_go_to_the_device_asked_for(runtime: FakeCuda, tmp_path: Path) -> None:
    path = tmp_path / "net"
    gpucnn.save(models.create("lenet5"), path)
    assert all(p.device is CUDA for p in gpucnn.load(path, device="cuda").parameters())
    tensors = gpucnn.serialization.load_state(path, "cuda")
    assert all(t.device is CUDA for t in tensors.values())


def test_mixing_devices_is_refused_by_layers(runtime: FakeCuda) -> None:
    with pytest.raises(RuntimeError, match="is on"):
        nn.Linear(3, 2, device="cuda")(gpucnn.ones(1, 3))
