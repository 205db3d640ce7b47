"""Flat storage: one update for a whole group, whatever happens to the parameters meanwhile."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import gpucnn
from gpucnn import nn, optim
from gpucnn.backends.gpu import nvrtc
from gpucnn.nn import flat

needs_nvrtc = pytest.mark.skipif(not nvrtc.compilers(), reason="NVRTC is not installed")


def make_net() -> nn.Sequential:
    gpucnn.manual_seed(5)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4)
    ).double()


X = gpucnn.tensor(np.random.default_rng(0).standard_normal((5, 2, 4, 4)))


def backward(net: nn.Module) -> None:
    out = net(X)
    (out * out).mean().backward()


@pytest.fixture
def updates(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of elements of each fused update."""
    sizes: list[int] = []
    from gpucnn.optim import adam, sgd

    for module, name in ((sgd, "sgd_update"), (adam, "adam_update")):
        real = getattr(module, name)

        def counted(p, *args, real=real, **kwargs):
            sizes.append(p.numel())
            return real(p, *args, **kwargs)

        monkeypatch.setattr(module, name, counted)
    return sizes


def reference(steps: int, make: object) -> list[np.ndarray]:
    """What the steps give with an optimizer of its own for each parameter."""
    net = make_net()
    optimizers = [make([p]) for p in net.parameters()]
    for _ in range(steps):
        for optimizer in optimizers:
            optimizer.zero_grad()
        backward(net)
        for optimizer in optimizers:
            optimizer.step()
    return [p.detach().numpy().copy() for p in net.parameters()]


def assert_equal(net: nn.Module, expected: list[np.ndarray]) -> None:
    for p, value in zip(net.parameters(), expected):
        np.testing.assert_allclose(p.detach().numpy(), value, rtol=1e-13, atol=1e-15)


def sgd(params: object) -> optim.Optimizer:
    return optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=1e-2)


def adam(params: object) -> optim.Optimizer:
    return optim.Adam(params, lr=0.01)


def train(net: nn.Module, optimizer: optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        backward(net)
        optimizer.step()


def test_moving_in_keeps_values_shapes_order_and_identity() -> None:
    net = make_net()
    parameters = list(net.parameters())
    before = [(p.detach().numpy().copy(), p.order) for p in parameters]
    sgd(net.parameters())
    assert all(a is b for a, b in zip(net.parameters(), parameters))
    for p, (values, order) in zip(parameters, before):
        np.testing.assert_array_equal(p.detach().numpy(), values)
        assert p.order == order and p.requires_grad
    base = parameters[0].data.base
    assert all(np.shares_memory(p.data, base) for p in parameters)
    # Vector loads need aligned beginnings, relative to the buffer.
    slots = [flat.slot_of(p) for p in parameters]
    assert all(slot is not None and slot.start * 8 % 256 == 0 for slot in slots)


@pytest.mark.parametrize("make", [sgd, adam])
def test_one_update_for_the_whole_group(make: object, updates: list[int]) -> None:
    expected = reference(3, make)
    updates.clear()
    net = make_net()
    optimizer = make(net.parameters())
    train(net, optimizer, 3)
    assert len(updates) == 3
    assert_equal(net, expected)


@pytest.mark.parametrize("place", ["cpu", pytest.param("emulated", marks=needs_nvrtc)])
def test_a_gradient_made_of_the_last_one(place: str) -> None:
    """It lies, turned, where it goes: a kernel may not read there while it writes."""
    values = np.arange(1600.0, dtype=np.float32).reshape(40, 40)
    p = nn.Parameter(gpucnn.zeros(40, 40, device=place))
    optimizer = optim.SGD([p], lr=1.0)
    p.backward(gpucnn.tensor(values, device=place))
    optimizer.step()
    last = p.grad
    assert last is not None and flat.slot_of(p) is not None
    p.grad = None
    p.t().backward(last)
    np.testing.assert_array_equal(p.grad.numpy(), values.T)


def test_gradients_are_views_and_none_after_zero_grad() -> None:
    net = make_net()
    optimizer = sgd(net.parameters())
    backward(net)
    parameters = list(net.parameters())
    flat_gradients = flat.slot_of(parameters[0]).storage.gradients.data
    assert all(np.shares_memory(p.grad.data, flat_gradients) for p in parameters)
    once = [p.grad.numpy().copy() for p in parameters]
    backward(net)  # accumulates
    for p, g in zip(parameters, once):
        np.testing.assert_allclose(p.grad.numpy(), 2 * g, rtol=1e-6, atol=1e-12)
    optimizer.zero_grad()
    assert all(p.grad is None for p in parameters)
    backward(net)  # does not add to what stood there
    for p, g in zip(parameters, once):
        np.testing.assert_allclose(p.grad.numpy(), g, rtol=1e-6, atol=1e-12)
    optimizer.zero_grad(set_to_none=False)
    assert all(not p.grad.numpy().any() for p in parameters)


def test_parameters_without_gradient_are_left_out(updates: list[int]) -> None:
    net = make_net()
    net[1].requires_grad_(False)
    frozen = net[1].weight.detach().numpy().copy()
    optimizer = sgd(net.parameters())
    train(net, optimizer, 2)
    assert len(updates) == 4  # what stands before the frozen layer, and what stands behind it
    np.testing.assert_array_equal(net[1].weight.detach().numpy(), frozen)
    assert net[1].weight not in optimizer.state


def test_a_gradient_assigned_by_the_user_is_used() -> None:
    net = make_net()
    optimizer = optim.SGD(net.parameters(), lr=1.0)
    before = net[4].bias.detach().numpy().copy()
    net[4].bias.grad = gpucnn.tensor([1.0, 2.0, 3.0, 4.0], dtype=gpucnn.float64)
    optimizer.step()
    np.testing.assert_array_equal(net[4].bias.detach().numpy(), before - [1, 2, 3, 4])
    backward(net)  # adds to the user's tensor, as in torch
    assert net[4].bias.grad.numpy()[3] != 4


def test_versions_of_parameters_count_up_so_a_stale_graph_is_refused() -> None:
    net = make_net()
    optimizer = sgd(net.parameters())
    loss = (net(X) * net(X)).mean()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()


@pytest.mark.parametrize("make", [sgd, adam])
def test_load_state_dict_afterwards_goes_into_the_flat_storage(
    make: object, updates: list[int]
) -> None:
    net = make_net()
    optimizer = make(net.parameters())
    start = {key: np.array(value) for key, value in net.state_dict().items()}
    with gpucnn.no_grad():
        for p in net.parameters():
            p.zero_()
    net.load_state_dict(start)
    expected = reference(2, make)
    updates.clear()
    train(net, optimizer, 2)
    assert_equal(net, expected)
    assert len(updates) == 2


def test_to_another_dtype_and_back_keeps_the_state(updates: list[int]) -> None:
    expected = reference(4, sgd)
    updates.clear()
    net = make_net()
    optimizer = sgd(net.parameters())
    train(net, optimizer, 2)
    net.float()
    assert all(p._grad_slot is None for p in net.parameters())
    net.double()
    train(net, optimizer, 2)
    assert len(updates) == 4
    for p, value in zip(net.parameters(), expected):
        np.testing.assert_allclose(p.detach().numpy(), value, rtol=1e-5, atol=1e-6)
    state = optimizer.state[net[0].weight]["momentum_buffer"]
    assert state.dtype == np.float64


def test_to_between_backward_and_step_carries_the_gradients() -> None:
    net = make_net()
    optimizer = sgd(net.parameters())
    backward(net)
    net.float()
    gradient = net[4].weight.grad.numpy().copy()
    assert gradient.dtype == np.float32
    before = net[4].weight.detach().numpy().copy()
    optimizer.step()
    np.testing.assert_allclose(
        net[4].weight.detach().numpy(), before - 0.1 * (gradient + 0.01 * before), rtol=1e-5
    )
    assert net[4].weight.grad is flat.slot_of(net[4].weight)


def test_data_replaced_by_the_user_is_adopted() -> None:
    net = make_net()
    optimizer = optim.SGD(net.parameters(), lr=0.5)
    net[4].bias.data = np.array([1.0, 2.0, 3.0, 4.0])
    backward(net)
    gradient = net[4].bias.grad.numpy().copy()
    optimizer.step()
    np.testing.assert_allclose(
        net[4].bias.detach().numpy(), np.array([1.0, 2, 3, 4]) - 0.5 * gradient
    )


def test_two_optimizers_over_the_same_parameters_share_the_storage(updates: list[int]) -> None:
    net, plain = make_net(), make_net()
    first, second = sgd(net.parameters()), adam(net.parameters())
    arrays = [p.data for p in net.parameters()]
    one, two = [sgd([p]) for p in plain.parameters()], [adam([p]) for p in plain.parameters()]
    updates.clear()
    for step in range(4):
        train(net, (first, second)[step % 2], 1)
    assert len(updates) == 4  # still one update a step
    assert all(p.data is array for p, array in zip(net.parameters(), arrays))
    for step in range(4):
        plain.zero_grad()
        backward(plain)
        for optimizer in (one, two)[step % 2]:
            optimizer.step()
    assert_equal(net, [p.detach().numpy() for p in plain.parameters()])


def test_an_optimizer_over_a_part_works_within_the_storage_of_the_whole(
    updates: list[int],
) -> None:
    net = make_net()
    whole = sgd(net.parameters())
    head = adam(net[4].parameters())
    train(net, whole, 1)
    train(net, head, 1)
    train(net, whole, 1)
    assert len(updates) == 3 and updates[1] < updates[0]
    # Only the state beside its own part was made.
    assert (
        head._storages[0]._state["exp_avg"][flat.slot_of(net[4].weight).storage].numel()
        == (updates[1])
    )


def test_a_part_first_then_the_whole(updates: list[int]) -> None:
    net, plain = make_net(), make_net()
    head = optim.SGD(net[4].parameters(), lr=0.1)
    whole = optim.SGD(net.parameters(), lr=0.1)
    for optimizer in (head, whole, head):
        train(net, optimizer, 1)
    for parameters in (plain[4].parameters(), plain.parameters(), plain[4].parameters()):
        optimizers = [optim.SGD([p], lr=0.1) for p in parameters]
        plain.zero_grad()
        backward(plain)
        for optimizer in optimizers:
            optimizer.step()
    assert_equal(net, [p.detach().numpy() for p in plain.parameters()])


def test_storage_of_a_dead_optimizer_is_left(updates: list[int]) -> None:
    net = make_net()
    for p in net.parameters():
        optim.SGD([p], lr=0.1)
    gc.collect()
    optimizer = sgd(net.parameters())
    train(net, optimizer, 1)
    assert len(updates) == 1


def test_groups_and_dtypes_have_buffers_of_their_own(updates: list[int]) -> None:
    a = nn.Parameter(gpucnn.ones(3))
    b = nn.Parameter(gpucnn.ones(2, dtype=gpucnn.float64))
    c = nn.Parameter(gpucnn.ones(2))
    optimizer = optim.SGD([a, b, c], lr=1.0, momentum=0.5)
    for p in (a, b, c):
        (p * p).sum().backward()
    optimizer.step()
    assert (a.tolist(), b.tolist(), c.tolist()) == ([-1] * 3, [-1] * 2, [-1] * 2)
    assert b.dtype == np.float64 and optimizer.state[b]["momentum_buffer"].dtype == np.float64


def test_state_given_by_the_user_or_taken_away_counts() -> None:
    p = nn.Parameter(gpucnn.ones(2, dtype=gpucnn.float64))
    optimizer = optim.SGD([p], lr=1.0, momentum=0.5)

    def step() -> list[float]:
        optimizer.zero_grad()
        p.sum().backward()
        before = p.detach().numpy().copy()
        optimizer.step()
        return (before - p.detach().numpy()).tolist()

    assert step() == [1, 1]
    assert step() == [1.5, 1.5]
    optimizer.state[p]["momentum_buffer"] = gpucnn.tensor([10.0, 0.0], dtype=gpucnn.float64)
    assert step() == [6, 1]
    optimizer.state.clear()
    assert step() == [1, 1]


def test_adam_starts_anew_when_its_state_is_cleared() -> None:
    p = nn.Parameter(gpucnn.ones(1, dtype=gpucnn.float64))
    optimizer = optim.Adam([p], lr=1.0, eps=0.0)
    for _ in range(2):
        optimizer.zero_grad()
        (p * 3).sum().backward()
        before = p.item()
        optimizer.step()
        # The first step of Adam has the length of the learning rate, whatever the gradient.
        assert before - p.item() == pytest.approx(1)
        optimizer.state.clear()


def test_empty_parameters_are_harmless() -> None:
    p, q = nn.Parameter(gpucnn.zeros(0, 3)), nn.Parameter(gpucnn.ones(2))
    optimizer = optim.SGD([p, q], lr=1.0)
    (p.sum() + q.sum()).backward()
    optimizer.step()
    assert q.tolist() == [0, 0] and p.shape == (0, 3)


def test_same_bits_twice() -> None:
    results = []
    for _ in range(2):
        net = make_net().float()
        optimizer = adam(net.parameters())
        for _ in range(3):
            optimizer.zero_grad()
            out = net(X.float())
            (out * out).mean().backward()
            optimizer.step()
        results.append([p.detach().numpy().tobytes() for p in net.parameters()])
    assert results[0] == results[1]
