"""Captured steps as launches: replayed on the emulated device, counted, and as a CUDA graph."""

from __future__ import annotations

import numpy as np
import pytest
from steps import Run, plain_net, residual_net

import gpucnn
from gpucnn import models, optim
from gpucnn.backends.gpu.host import recording
from gpucnn.nn import functional as F


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_replayed_launches_have_the_bits_of_eager_ones(optimizer: str, emulated: None) -> None:
    eager = Run(plain_net, "emulated", optimizer)
    captured = Run(plain_net, "emulated", optimizer, {})
    assert captured.go(5) == eager.go(5)
    assert captured.state() == eager.state()
    assert captured.step.launches


def test_exact_rewriting_of_a_residual_net(emulated: None) -> None:
    eager = Run(residual_net, "emulated")
    captured = Run(residual_net, "emulated", capture={"fuse": "exact"})
    assert captured.go(5) == eager.go(5)
    assert captured.state() == eager.state()


def test_fused_statistics_agree_within_rounding(emulated: None) -> None:
    eager, captured = Run(residual_net, "emulated"), Run(residual_net, "emulated", capture={})
    np.testing.assert_allclose(captured.go(5), eager.go(5), rtol=1e-5)
    assert "conv2d_statistics" in [node.name for node in captured.step.nodes()]


@pytest.mark.parametrize(
    ("name", "shape", "most"),
    [
        ("lenet5", (128, 1, 28, 28), 20),
        ("convnet", (128, 3, 32, 32), 28),
        ("resnet18_cifar", (128, 3, 32, 32), 170),
    ],
)
def test_launches_of_a_training_step(
    name: str, shape: tuple[int, ...], most: int, say: object
) -> None:
    """SGD with momentum, from plain layers; counted where launches are planned and not run."""
    with recording():
        model = models.create(name).to("emulated")
        optimizer = optim.SGD(model.parameters(), 0.1, 0.9)

        @gpucnn.capture
        def step(x: gpucnn.Tensor, y: gpucnn.Tensor) -> gpucnn.Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            return loss

        x = gpucnn.zeros(shape, device="emulated")
        y = gpucnn.zeros(len(x), dtype="int64", device="emulated")
        for _ in range(3):
            step(x, y)
    assert step.launches is not None and step.launches <= most
