"""Loss scaling: PyTorch's, step by step; and within a captured step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from needing_torch import where_installed

import gpucnn
from gpucnn import nn, optim

OPTIMIZERS = {
    "SGD": {"lr": 0.1, "momentum": 0.9},
    "Adam": {"lr": 0.1},
    "AdamW": {"lr": 0.1, "weight_decay": 0.05},
}
RANDOM = np.random.default_rng(5)
X = RANDOM.standard_normal((5, 4)).astype(np.float32)
W = RANDOM.standard_normal((3, 4)).astype(np.float32)
BAD = (2, 3, 9)  # steps whose gradients are not finite


def linear() -> nn.Linear:
    model = nn.Linear(4, 3, bias=False)
    with gpucnn.no_grad():
        model.weight.copy_(gpucnn.tensor(W))
    return model


def loss_of(model: nn.Linear, step: int) -> Any:
    factor = [1.0, np.inf, np.nan][BAD.index(step) % 2 + 1 if step in BAD else 0]
    return (model(gpucnn.tensor(X)) ** 2).mean() * factor


def weights(model: nn.Linear) -> np.ndarray[Any, Any]:
    return model.weight.detach().numpy().copy()


@pytest.mark.parametrize("name", where_installed(OPTIMIZERS))
def test_follows_pytorch(name: str) -> None:
    import torch

    ours, theirs = linear(), torch.nn.Linear(4, 3, bias=False)
    theirs.weight.data = torch.tensor(W)
    optimizer = getattr(optim, name)(ours.parameters(), **OPTIMIZERS[name])
    reference = getattr(torch.optim, name)(theirs.parameters(), **OPTIMIZERS[name])
    settings: dict[str, Any] = {"init_scale": 4.0, "growth_interval": 3, "growth_factor": 4.0}
    scaler = gpucnn.GradScaler(**settings)
    scaler_reference = torch.amp.GradScaler("cpu", **settings)
    for step in range(14):
        optimizer.zero_grad()
        reference.zero_grad()
        factor = [1.0, np.inf, np.nan][BAD.index(step) % 2 + 1 if step in BAD else 0]
        scaler.scale(loss_of(ours, step)).backward()
        scaler_reference.scale((theirs(torch.tensor(X)) ** 2).mean() * factor).backward()
        if step % 2:
            scaler.unscale_(optimizer)
            scaler_reference.unscale_(reference)
            if step not in BAD:
                gradient = ours.weight.grad
                assert gradient is not None
                np.testing.assert_allclose(gradient.numpy(), theirs.weight.grad.numpy(), atol=1e-6)
        scaler.step(optimizer)
        scaler_reference.step(reference)
        scaler.update()
        scaler_reference.update()
        assert scaler.state_dict() == scaler_reference.state_dict()
        assert scaler.get_scale() == scaler_reference.get_scale()
        np.testing.assert_allclose(weights(ours), theirs.weight.detach().numpy(), atol=1e-6)


def test_gradients_below_float16_survive() -> None:
    """A gradient of 1e-9 is nothing in float16; scaled by 2^16 it is a number."""
    x = gpucnn.tensor([1e-9], requires_grad=True)
    scaler = gpucnn.GradScaler()
    scaler.scale(x * 1e-9).sum().backward()
    assert x.grad is not None
    assert np.float16(1e-9) == 0 and np.float16(x.grad.item()) != 0


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_within_a_captured_step(name: str) -> None:
    """The same steps and scales, nothing read; a step that should not be made is undone."""

    def train(captured: bool) -> tuple[list[Any], list[float], int]:
        model = linear()
        optimizer = getattr(optim, name)(model.parameters(), **OPTIMIZERS[name])
        scaler = gpucnn.GradScaler(init_scale=4.0, growth_interval=3)

        def update(x: Any, factor: Any) -> Any:
            optimizer.zero_grad()
            loss = ((model(x) ** 2).mean() * factor).sum()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            return loss

        step = gpucnn.capture(update) if captured else update
        seen, scales = [], []
        for number in range(10):
            factor = gpucnn.tensor([np.inf if number in BAD else 1.0])
            step(gpucnn.tensor(X), factor)
            seen.append(weights(model))
            scales.append(scaler.get_scale())
        return seen, scales, len(step.nodes()) if captured else 0

    eager, eager_scales, _ = train(False)
    replayed, scales, nodes = train(True)
    assert scales == eager_scales and nodes > 0
    for number in BAD:
        assert np.array_equal(replayed[number], replayed[number - 1])
    last = len(eager) if name == "SGD" else BAD[0]  # Adam counts the steps that are undone
    assert all(np.array_equal(a, b) for a, b in zip(eager[:last], replayed[:last]))


def test_several_losses_and_optimizers() -> None:
    one, two = linear(), linear()
    optimizers = [optim.SGD(model.parameters(), lr=0.1) for model in (one, two)]
    scaler = gpucnn.GradScaler(init_scale=8.0)
    before = weights(one)
    losses = [loss_of(one, 0), loss_of(two, BAD[0])]
    for loss in scaler.scale(losses):
        loss.backward()
    for optimizer in optimizers:
        scaler.step(optimizer)
    assert not np.array_equal(weights(one), before) and np.array_equal(weights(two), before)
    scaler.update()
    assert scaler.get_scale() == 4.0


def test_state() -> None:
    scaler = gpucnn.GradScaler(init_scale=32.0, growth_interval=7)
    state = scaler.state_dict()
    assert list(state) == [
        "scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker",
    ]  # fmt: skip
    other = gpucnn.GradScaler()
    other.load_state_dict({**state, "_growth_tracker": 3})
    assert other.state_dict() == {**state, "_growth_tracker": 3}
    other.update(2.0)
    assert other.get_scale() == 2.0
    other.set_growth_factor(3.0)
    other.set_backoff_factor(0.25)
    other.set_growth_interval(5)
    settings = other.get_growth_factor(), other.get_backoff_factor(), other.get_growth_interval()
    assert settings == (3.0, 0.25, 5)


def test_growth_stops_before_infinity_and_backing_off_before_zero() -> None:
    model = linear()
    optimizer = optim.SGD(model.parameters(), lr=0.0)
    scaler = gpucnn.GradScaler(init_scale=2.0**127, growth_interval=1)

    def step(number: int) -> None:
        optimizer.zero_grad()
        scaler.scale(loss_of(model, number) * 1e-30).backward()
        scaler.step(optimizer)
        scaler.update()

    step(0)
    assert scaler.get_scale() == 2.0**127
    scaler.update(2.0**-119)
    for _ in range(4):
        step(BAD[0])
    assert scaler.get_scale() == 2.0**-120
    step(0)
    assert scaler.get_scale() == 2.0**-119


def test_not_enabled() -> None:
    model = linear()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    scaler = gpucnn.GradScaler(enabled=False)
    loss = loss_of(model, 0)
    assert scaler.scale(loss) is loss and not scaler.is_enabled()
    loss.backward()
    before = weights(model)
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert not np.array_equal(weights(model), before)
    assert scaler.get_scale() == 1.0 and scaler.state_dict() == {}
    scaler.load_state_dict({})


def test_errors() -> None:
    for options, text in (
        ({"growth_factor": 1.0}, "GradScaler: growth_factor must be above 1, got 1.0"),
        ({"backoff_factor": 1.5}, "GradScaler: backoff_factor must be between 0 and 1, got 1.5"),
        ({"growth_interval": 0}, "GradScaler: growth_interval must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError) as error:
            gpucnn.GradScaler(**options)
        assert str(error.value) == text
    model, scaler = linear(), gpucnn.GradScaler()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(TypeError, match="scale: outputs must be a tensor or an iterable of"):
        scaler.scale(3.0)
    with pytest.raises(RuntimeError, match="No inf checks were recorded prior to update"):
        scaler.update()
    scaler.scale(loss_of(model, 0)).backward()
    scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="unscale_.. has already been called"):
        scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="Closure use is not currently supported"):
        scaler.step(optimizer, lambda: 0)
    scaler.step(optimizer)
    with pytest.raises(RuntimeError, match="unscale_.. is being called after step"):
        scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="step.. has already been called since"):
        scaler.step(optimizer)
    with pytest.raises(RuntimeError, match="The source state dict is empty"):
        scaler.load_state_dict({})
