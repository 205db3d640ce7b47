"""SGD, Adam, AdamW: by hand, against torch, and the structure around them."""

from __future__ import annotations

import math

import numpy as np
import pytest

import gpucnn
from gpucnn import nn, optim

OPTIONS = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.5, "maximize": True, "weight_decay": 0.1}),
    ("Adam", {}),
    ("Adam", {"lr": 0.01, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.01, "maximize": True, "weight_decay": 0.1}),
    ("AdamW", {}),
    ("AdamW", {"lr": 0.1, "weight_decay": 0.3, "maximize": True}),
]

SHAPES = [(4, 3, 3, 2), (4,), (5, 7), ()]


def make_parameters(seed: int = 0) -> list[nn.Parameter]:
    rng = np.random.default_rng(seed)
    parameters = []
    for shape in SHAPES:
        order = (0, 2, 3, 1) if len(shape) == 4 else None
        value = gpucnn.empty(shape, dtype=gpucnn.float64, order=order)
        value.copy_(gpucnn.tensor(rng.standard_normal(shape)))
        parameters.append(nn.Parameter(value))
    return parameters


def gradients(step: int) -> list[np.ndarray]:
    rng = np.random.default_rng(1000 + step)
    return [np.asarray(rng.standard_normal(shape)) for shape in SHAPES]


def backward(parameters: list[nn.Parameter], step: int, skip: tuple[int, ...] = ()) -> None:
    """Through the engine: d(sum p g)/dp = g."""
    for number, (p, g) in enumerate(zip(parameters, gradients(step))):
        if number not in skip:
            (p * gpucnn.tensor(g)).sum().backward()


def assert_same(parameters: list, others: list) -> None:
    for ours, theirs in zip(parameters, others):
        np.testing.assert_allclose(
            ours.detach().numpy(), theirs.detach().numpy(), rtol=1e-12, atol=1e-13
        )


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_agrees_with_torch(name: str, options: dict) -> None:
    torch = pytest.importorskip("torch")
    ours = make_parameters()
    theirs = [torch.nn.Parameter(torch.tensor(p.detach().numpy().copy())) for p in ours]
    a, b = getattr(optim, name)(ours, **options), getattr(torch.optim, name)(theirs, **options)
    for step in range(7):
        # Now and then a parameter has no gradient: it is skipped, and so is its count of steps.
        skip = {2: (1,), 3: (0, 3)}.get(step, ())
        a.zero_grad()
        b.zero_grad()
        backward(ours, step, skip)
        for number, (p, g) in enumerate(zip(theirs, gradients(step))):
            p.grad = None if number in skip else torch.tensor(g)
        a.step()
        b.step()
        assert_same(ours, theirs)
    saved, expected = a.state_dict(), b.state_dict()
    assert saved["param_groups"][0]["params"] == expected["param_groups"][0]["params"]
    assert list(saved["state"]) == list(expected["state"])
    for number, state in expected["state"].items():
        assert set(saved["state"][number]) == set(state)
        for key, value in state.items():
            np.testing.assert_allclose(
                np.asarray(saved["state"][number][key]), value.numpy(), rtol=1e-12, atol=1e-13
            )


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_takes_over_torchs_state(name: str, options: dict) -> None:
    torch = pytest.importorskip("torch")
    ours = make_parameters()
    theirs = [torch.nn.Parameter(torch.tensor(p.detach().numpy().copy())) for p in ours]
    b = getattr(torch.optim, name)(theirs, **options)
    for step in range(5):
        for p, g in zip(theirs, gradients(step)):
            p.grad = torch.tensor(g)
        b.step()
        if step == 2:
            for p, q in zip(ours, theirs):
                with gpucnn.no_grad():
                    p.copy_(gpucnn.tensor(q.detach().numpy()))
            a = getattr(optim, name)(ours, lr=5.0)
            a.load_state_dict(b.state_dict())
        elif step > 2:
            a.zero_grad()
            backward(ours, step)
            a.step()
    assert_same(ours, theirs)


def test_sgd_by_hand() -> None:
    p = nn.Parameter(gpucnn.tensor([1.0, -2.0], dtype=gpucnn.float64))
    optimizer = optim.SGD([p], lr=0.5, momentum=0.9, weight_decay=0.1, nesterov=True)
    value, buffer = np.array([1.0, -2.0]), None
    for _ in range(3):
        optimizer.zero_grad()
        (p * p).sum().backward()
        optimizer.step()
        g = 2 * value + 0.1 * value
        buffer = g if buffer is None else 0.9 * buffer + g
        value = value - 0.5 * (g + 0.9 * buffer)
        np.testing.assert_allclose(p.detach().numpy(), value, rtol=1e-14)


@pytest.mark.parametrize("decoupled", [False, True])
def test_adam_by_hand(decoupled: bool) -> None:
    p = nn.Parameter(gpucnn.tensor([1.0, -2.0], dtype=gpucnn.float64))
    make = optim.AdamW if decoupled else optim.Adam
    optimizer = make([p], lr=0.1, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.2)
    value, m, v = np.array([1.0, -2.0]), np.zeros(2), np.zeros(2)
    for t in range(1, 4):
        optimizer.zero_grad()
        (p * p * p).sum().backward()
        optimizer.step()
        g = 3 * value**2
        if decoupled:
            value = value * (1 - 0.1 * 0.2)
        else:
            g = g + 0.2 * value
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g * g
        hat_m, hat_v = m / (1 - 0.8**t), v / (1 - 0.9**t)
        value = value - 0.1 * hat_m / (np.sqrt(hat_v) + 1e-6)
        np.testing.assert_allclose(p.detach().numpy(), value, rtol=1e-12)


def test_groups_have_options_of_their_own() -> None:
    a, b, c = (nn.Parameter(gpucnn.ones(2)) for _ in range(3))
    optimizer = optim.SGD([{"params": [a]}, {"params": b, "lr": 1.0, "weight_decay": 1.0}], lr=0.5)
    optimizer.add_param_group({"params": [c], "lr": 0.0})
    for p in (a, b, c):
        p.sum().backward()
    optimizer.step()
    assert (a.tolist(), b.tolist(), c.tolist()) == ([0.5, 0.5], [-1, -1], [1, 1])
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 1.0, 0.0]
    assert optimizer.state_dict()["param_groups"][2]["params"] == [2]
    assert "Parameter Group 1\n    dampening: 0\n    lr: 1.0" in repr(optimizer)


def test_named_parameters_are_taken() -> None:
    net = nn.Linear(2, 1)
    optimizer = optim.SGD(net.named_parameters(), lr=0.1)
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]
    assert optimizer.param_groups[0]["params"][0] is net.weight


def test_step_calls_the_closure_with_gradients_on() -> None:
    p = nn.Parameter(gpucnn.tensor([3.0]))
    optimizer = optim.SGD([p], lr=0.5)

    def closure() -> float:
        optimizer.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss.item()

    with gpucnn.no_grad():
        assert optimizer.step(closure) == 9
    assert p.tolist() == [0]


def test_learns_a_line_in_float32() -> None:
    gpucnn.manual_seed(0)
    net = nn.Linear(1, 1)
    optimizer = optim.Adam(net.parameters(), lr=0.1)
    x = gpucnn.randn(64, 1)
    y = x * 3 - 1
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.mse_loss(net(x), y).backward()
        optimizer.step()
    assert net.weight.item() == pytest.approx(3, abs=1e-3)
    assert net.bias.item() == pytest.approx(-1, abs=1e-3)


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_state_dict_resumes_to_the_same_bits(name: str, options: dict) -> None:
    def run(parameters: list, optimizer: optim.Optimizer, steps: range) -> None:
        for step in steps:
            optimizer.zero_grad()
            backward(parameters, step)
            optimizer.step()

    straight = make_parameters()
    first = getattr(optim, name)(straight, **options)
    run(straight, first, range(3))
    saved = first.state_dict()
    resumed = [nn.Parameter(p.detach().clone()) for p in straight]
    second = getattr(optim, name)(resumed)
    second.load_state_dict(saved)
    run(straight, first, range(3, 6))
    run(resumed, second, range(3, 6))
    for p, q in zip(straight, resumed):
        np.testing.assert_array_equal(p.detach().numpy(), q.detach().numpy())
    # What was loaded is a copy: the first optimizer's later steps did not reach it.
    assert second.param_groups[0]["lr"] == first.param_groups[0]["lr"]


@pytest.mark.parametrize(
    ("make", "kind", "text"),
    [
        (lambda p: optim.SGD([p], lr=-1), ValueError, "Invalid learning rate: -1"),
        (lambda p: optim.SGD([p], momentum=-1), ValueError, "Invalid momentum value: -1"),
        (lambda p: optim.SGD([p], weight_decay=-1), ValueError, "Invalid weight_decay value: -1"),
        (
            lambda p: optim.SGD([p], nesterov=True),
            ValueError,
            "Nesterov momentum requires a momentum and zero dampening",
        ),
        (lambda p: optim.Adam([p], lr=math.nan), ValueError, "Invalid learning rate: nan"),
        (lambda p: optim.Adam([p], eps=-1), ValueError, "Invalid epsilon value: -1"),
        (
            lambda p: optim.Adam([p], betas=(1.0, 0.9)),
            ValueError,
            "Invalid beta parameter at index 0: 1.0",
        ),
        (
            lambda p: optim.AdamW([p], betas=(0.9, -1.0)),
            ValueError,
            "Invalid beta parameter at index 1: -1.0",
        ),
        (lambda p: optim.AdamW([p], weight_decay=-1), ValueError, "Invalid weight_decay value: -1"),
        (lambda p: optim.SGD([]), ValueError, "optimizer got an empty parameter list"),
        (
            lambda p: optim.SGD(p),
            TypeError,
            "params argument given to the optimizer should be an iterable of Tensors or dicts, "
            "but got Parameter",
        ),
        (
            lambda p: optim.SGD([p, 3]),
            TypeError,
            "optimizer can only optimize Tensors, but one of the params is int",
        ),
        (lambda p: optim.SGD([p * 2]), ValueError, "can't optimize a non-leaf Tensor"),
        (
            lambda p: optim.SGD([p, p]),
            ValueError,
            "a parameter appears twice in one parameter group",
        ),
        (
            lambda p: optim.SGD([{"params": [p]}, {"params": [p]}]),
            ValueError,
            "some parameters appear in more than one parameter group",
        ),
        (
            lambda p: optim.SGD([("p", p), nn.Parameter(gpucnn.ones(1))]),
            ValueError,
            "all optimizer params should be with/without names. Some param names are missing",
        ),
    ],
)
def test_wrong_arguments(make: object, kind: type[Exception], text: str) -> None:
    p = nn.Parameter(gpucnn.ones(1))
    with pytest.raises(kind) as error:
        make(p)
    assert str(error.value) == text


def test_sets_are_refused() -> None:
    with pytest.raises(TypeError, match="Please use a list instead"):
        optim.SGD([{"params": {nn.Parameter(gpucnn.ones(1))}}])


def test_state_that_does_not_fit_is_refused() -> None:
    a, b = nn.Parameter(gpucnn.ones(2)), nn.Parameter(gpucnn.ones(3))
    one, two = optim.Adam([a]), optim.Adam([b])
    for p, optimizer in ((a, one), (b, two)):
        p.sum().backward()
        optimizer.step()
    with pytest.raises(
        ValueError, match=r"exp_avg of shape \(3,\) for parameter 0 of shape \(2,\)"
    ):
        one.load_state_dict(two.state_dict())
    with pytest.raises(ValueError, match="different number of parameter groups"):
        one.load_state_dict({"state": {}, "param_groups": []})
    with pytest.raises(ValueError, match="doesn't match the size of optimizer's group"):
        one.load_state_dict({"state": {}, "param_groups": [{"params": []}]})
    with pytest.raises(ValueError, match="expected the keys 'state' and 'param_groups'"):
        one.load_state_dict({})
    with pytest.raises(ValueError, match="unknown parameter 4"):
        one.load_state_dict({"state": {4: {}}, "param_groups": [{"params": [0]}]})


def test_a_gradient_of_the_wrong_shape_is_named() -> None:
    p = nn.Parameter(gpucnn.ones(2))
    optimizer = optim.SGD([p])
    p.grad = gpucnn.ones(3)
    with pytest.raises(RuntimeError, match=r"grad of shape \(3,\) on cpu for a parameter of shape"):
        optimizer.step()


def test_a_subclass_may_bring_its_own_step() -> None:
    class Sign(optim.Optimizer):
        def __init__(self, params: object) -> None:
            super().__init__(params, {"lr": 1.0})

        def step(self, closure: object = None) -> None:
            with gpucnn.no_grad():
                for group in self.param_groups:
                    for p in group["params"]:
                        p.sub_(p.grad / p.grad.abs())

    p = nn.Parameter(gpucnn.tensor([5.0, -5.0]))
    optimizer = Sign([p])
    (p * p).sum().backward()
    optimizer.step()
    assert p.tolist() == [4, -4]


def test_a_subclass_may_bring_its_own_update() -> None:
    class Halving(optim.Optimizer):
        def __init__(self, params: object) -> None:
            super().__init__(params, {})

        def _update(self, group, values, gradients, buffers, states, key) -> None:
            values.mul_(0.5)

    net = nn.Linear(2, 2)
    before = net.weight.detach().numpy().copy()
    optimizer = Halving(net.parameters())
    net(gpucnn.ones(1, 2)).sum().backward()
    optimizer.step()
    np.testing.assert_array_equal(net.weight.detach().numpy(), before / 2)
    plain = optim.Optimizer([nn.Parameter(gpucnn.ones(1))], {})
    plain.param_groups[0]["params"][0].sum().backward()
    with pytest.raises(NotImplementedError, match="Optimizer: write _update, or override step"):
        plain.step()
