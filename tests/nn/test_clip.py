"""clip_grad_norm_, clip_grad_value_, parameters as a vector."""

from __future__ import annotations

import math

import numpy as np
import pytest

import gpucnn
from gpucnn import nn, optim
from gpucnn.nn.utils import (
    clip_grad_norm_,
    clip_grad_value_,
    parameters_to_vector,
    vector_to_parameters,
)

GRADIENTS = [np.array([[3.0, -4.0], [0.0, 1.0]]), np.array([12.0]), np.array([0.5, -2.0, 7.0])]


def make(in_flat_storage: bool) -> tuple[list[nn.Parameter], object]:
    parameters = [nn.Parameter(gpucnn.zeros(g.shape, dtype=gpucnn.float64)) for g in GRADIENTS]
    parameters.append(nn.Parameter(gpucnn.zeros(2)))  # without a gradient
    owner = optim.SGD(parameters[:2]) if in_flat_storage else None
    for p, g in zip(parameters, GRADIENTS):
        (p * gpucnn.tensor(g)).sum().backward()
    return parameters, owner


@pytest.mark.parametrize("in_flat_storage", [False, True])
@pytest.mark.parametrize("norm_type", [2.0, 1, 3.0, math.inf])
def test_the_norm_is_limited(in_flat_storage: bool, norm_type: float) -> None:
    parameters, _owner = make(in_flat_storage)
    flat = np.concatenate([g.ravel() for g in GRADIENTS])
    expected = np.linalg.norm(flat, norm_type)
    total = clip_grad_norm_(parameters, 2.0, norm_type)
    assert total.item() == pytest.approx(expected, rel=1e-12) and total.shape == ()
    for p, g in zip(parameters, GRADIENTS):
        np.testing.assert_allclose(p.grad.numpy(), g * 2 / (expected + 1e-6), rtol=1e-12)
    assert parameters[3].grad is None
    small = clip_grad_norm_(parameters, 1e6, norm_type)
    assert small.item() == pytest.approx(2, rel=1e-6)
    np.testing.assert_allclose(
        parameters[1].grad.numpy(), GRADIENTS[1] * 2 / (expected + 1e-6), rtol=1e-12
    )


def test_agrees_with_torch() -> None:
    torch = pytest.importorskip("torch")
    parameters, _owner = make(True)
    theirs = [torch.nn.Parameter(torch.zeros(g.shape, dtype=torch.float64)) for g in GRADIENTS]
    for p, g in zip(theirs, GRADIENTS):
        p.grad = torch.tensor(g)
    expected = torch.nn.utils.clip_grad_norm_(theirs, 1.5)
    assert clip_grad_norm_(parameters, 1.5).item() == pytest.approx(expected.item(), rel=1e-14)
    for p, q in zip(parameters, theirs):
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-13)


def test_a_norm_that_is_not_finite() -> None:
    p = nn.Parameter(gpucnn.zeros(2))
    optimizer = optim.SGD([p])
    (p * gpucnn.tensor([1.0, math.nan])).sum().backward()
    with pytest.raises(RuntimeError, match="non-finite"):
        clip_grad_norm_([p], 1.0, error_if_nonfinite=True)
    assert p.grad.numpy()[0] == 1
    assert math.isnan(clip_grad_norm_([p], 1.0).item())
    # A step left out for it must not spoil the next: nothing of the NaN stays anywhere.
    optimizer.zero_grad()
    (p * 3.0).sum().backward()
    assert clip_grad_norm_([p], 1.0).item() == pytest.approx(3 * math.sqrt(2))


def test_no_gradients_and_wrong_norms() -> None:
    assert clip_grad_norm_([nn.Parameter(gpucnn.ones(1))], 1.0).item() == 0
    p = nn.Parameter(gpucnn.ones(1))
    p.sum().backward()
    assert clip_grad_norm_(p, 0.5).item() == 1
    with pytest.raises(ValueError, match="norm_type must be greater than 0, got -1.0"):
        clip_grad_norm_(p, 1.0, -1)


@pytest.mark.parametrize("in_flat_storage", [False, True])
def test_values_are_limited(in_flat_storage: bool) -> None:
    parameters, _owner = make(in_flat_storage)
    clip_grad_value_(parameters, 2)
    for p, g in zip(parameters, GRADIENTS):
        np.testing.assert_array_equal(p.grad.numpy(), np.clip(g, -2, 2))


def test_parameters_as_one_vector() -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, (1, 2)), nn.Linear(2, 1))
    vector = parameters_to_vector(net.parameters())
    expected = np.concatenate([np.asarray(p).reshape(-1) for p in net.parameters()])
    np.testing.assert_array_equal(vector.detach().numpy(), expected)
    vector_to_parameters(gpucnn.arange(18).float(), net.parameters())
    assert net[0].weight.detach().numpy().ravel().tolist() == list(range(12))
    assert net[1].bias.tolist() == [17]
    with pytest.raises(ValueError, match=r"vec must have shape \(18,\), got \(3,\)"):
        vector_to_parameters(gpucnn.ones(3), net.parameters())
