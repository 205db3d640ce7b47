"""The examples that people learn convolutional networks from, computed by the engine.

Every number was worked out by hand or recomputed apart from the engine.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpucnn
from gpucnn import Tensor
from gpucnn.nn import functional as F

FLOATS = ("float32", "float64")
TOLERANCE = {"float32": 1e-6, "float64": 1e-14}


@pytest.fixture(params=FLOATS)
def dtype(request: pytest.FixtureRequest) -> str:
    return request.param


class Maker:
    """Makes tensors of one dtype on one device."""

    def __init__(self, device: str, dtype: str) -> None:
        self.device, self.dtype = device, dtype

    def __call__(self, data: Any, requires_grad: bool = False) -> Tensor:
        return gpucnn.tensor(data, self.dtype, self.device, requires_grad)

    def labels(self, data: Any) -> Tensor:
        return gpucnn.tensor(data, device=self.device)

    def close(self, actual: Tensor, expected: Any) -> None:
        values, tolerance = actual.detach().cpu().numpy(), TOLERANCE[self.dtype]
        assert str(values.dtype) == self.dtype
        np.testing.assert_allclose(values, expected, rtol=tolerance, atol=tolerance)


@pytest.fixture
def make(device: str, dtype: str) -> Maker:
    return Maker(device, dtype)


def test_one_cnn_by_hand(make: Maker) -> None:
    """E1: convolution, ReLU, max pooling, a fully connected layer and softmax."""
    x = make([[
        [[0, 1, 1, 2, 1], [0, 2, 2, 0, 2], [0, 2, 0, 0, 1], [2, 1, 2, 0, 0], [1, 0, 1, 1, 0]],
        [[0, 0, 0, 0, 2], [1, 0, 2, 1, 2], [1, 1, 0, 1, 2], [0, 0, 1, 0, 1], [0, 1, 0, 1, 0]],
        [[2, 0, 2, 1, 0], [0, 1, 0, 2, 2], [2, 2, 0, 1, 2], [0, 1, 2, 1, 1], [0, 1, 0, 0, 2]],
    ]])  # fmt: skip
    w = make([
        [[[-1, -1, 0], [0, -1, -1], [1, -1, -1]], [[0, -1, 0], [-1, 0, 1], [-1, -1, 0]],
         [[0, -1, -1], [1, 1, 0], [0, 1, 1]]],
        [[[1, -1, 0], [-1, 1, 0], [0, 1, -1]], [[0, 0, -1], [0, 0, 0], [-1, 1, 0]],
         [[-1, 1, -1], [-1, -1, 1], [0, 0, 1]]],
    ])  # fmt: skip
    y = F.conv2d(x, w, make([1, 0]), stride=2, padding=1)
    assert y.tolist() == [
        [[[0, 0, -2], [-2, -4, -4], [-2, -7, 0]], [[-2, 5, 1], [1, -3, -3], [-1, -1, -3]]]
    ]
    pooled = F.max_pool2d(F.relu(y), 2, stride=1)
    assert pooled.tolist() == [[[[0, 0], [0, 0]], [[5, 5], [1, 0]]]]
    full = make([[1, 3, 2, -2, 0, 2, 1, -1], [3, -1, 2, -2, -1, 2, -1, -2]])
    scores = F.linear(pooled.flatten(1), full)
    assert scores.tolist() == [[11, 4]]
    make.close(F.softmax(scores, 1), [[1 / (1 + np.exp(-7)), np.exp(-7) / (1 + np.exp(-7))]])


def test_a_feedforward_net(make: Maker) -> None:
    """E2: values, losses and single derivatives of a net of 16 weights."""
    w1 = make([[2, -3, 0], [-1, 1, 2]], requires_grad=True)
    w2, wo = make([[1, 2], [2, -2]]), make([[-1, 2], [2, 1], [1, 2]])
    assert w1.numel() + w2.numel() + wo.numel() == 16

    def layers(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h1 = (w1 @ x).relu()
        h2 = (w2 @ h1).relu()
        return h1, h2, wo @ h2

    h1, h2, o = layers(make([1, 1, 1]))
    assert (h1.tolist(), h2.tolist(), o.tolist()) == ([0, 2], [4, 0], [-4, 8, 4])
    exact = np.exp(np.array([-4.0, 8, 4])) / np.exp(np.array([-4.0, 8, 4])).sum()
    make.close(F.softmax(o, 0), exact)
    assert [round(p, 2) for p in exact] == [0, 0.98, 0.02]
    single = make([-1, 2]) @ h2
    assert single.item() == -4 and F.mse_loss(single, make(0.0)).item() == 16
    losses = [F.cross_entropy(o, make.labels(t)) for t in range(3)]
    make.close(losses[1], -np.log(exact[1]))
    assert round(losses[1].item(), 4) == 0.0182 and round(losses[2].item(), 2) == 4.02

    h1, h2, o = layers(make([3, 1, 2]))
    assert (h1.tolist(), h2.tolist(), o.tolist()) == ([3, 2], [7, 2], [-3, 16, 11])
    slopes = [gpucnn.grad(o[k], w1, retain_graph=True)[0][0, 0].item() for k in range(3)]
    assert slopes == [-1 * 3 + 2 * 6, 2 * 3 + 1 * 6, 1 * 3 + 2 * 6]
    slopes = [gpucnn.grad(o[k], w1, retain_graph=True)[0][1, 1].item() for k in range(3)]
    assert slopes == [-6, 2, -2]
    (dh2,) = gpucnn.grad(o[0], h2)
    assert dh2.tolist() == [-1, 2]


def test_a_stable_logarithm_of_a_sum(make: Maker) -> None:
    """E3: a cross entropy of 1e-7, and a gradient whose first row is exactly zero."""
    w1 = make([[-2, 1], [3, -1]], requires_grad=True)
    w2, w3 = make([[0, 1], [2, -1], [1, 2]]), make([[-1, 2, 1], [3, 0, 0]])
    o = w3 @ (w2 @ (w1 @ make([3, 1])).relu()).relu()
    assert o.tolist() == [8, 24]
    loss = F.cross_entropy(o, make.labels(1))
    if make.dtype == "float64":
        assert loss.item() == pytest.approx(1.12535e-7, rel=1e-5)
        assert loss.item() == pytest.approx(np.log1p(np.exp(-16.0)), rel=1e-9)
    else:
        assert loss.item() == pytest.approx(1.2e-7, rel=0.1)
    loss.backward()
    assert w1.grad[0].tolist() == [0, 0]
    if make.dtype == "float64":  # d loss / d o = (p, -p), of which float32 has hardly a digit
        p = np.exp(-16) / (1 + np.exp(-16))
        assert w1.grad[1].tolist() == pytest.approx([-2 * p * 3, -2 * p], rel=1e-8)


def test_sliding_windows(make: Maker) -> None:
    """E4: one and two dimensions, and the sizes that come of stride and padding."""
    line = make([2, 1, 1, 7, -1, 2, 3, 1]).reshape(1, 1, 1, 8)
    filters = make([3, 2, -1]).reshape(1, 1, 1, 3)
    assert F.conv2d(line, filters).flatten().tolist() == [7, -2, 18, 17, -2, 11]
    picture = make([[1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 1, 1], [0, 0, 1, 1, 0],
                    [0, 1, 1, 0, 0]]).reshape(1, 1, 5, 5)  # fmt: skip
    cross = make([[1, 0, 1], [0, 1, 0], [1, 0, 1]]).reshape(1, 1, 3, 3)
    assert F.conv2d(picture, cross)[0, 0].tolist() == [[4, 3, 4], [2, 4, 3], [2, 3, 4]]

    def ones(*shape: int) -> Tensor:
        return gpucnn.ones(*shape, dtype=make.dtype, device=make.device)

    assert F.conv2d(ones(1, 1, 10, 10), ones(1, 1, 5, 5)).shape == (1, 1, 6, 6)
    assert F.conv2d(ones(1, 1, 5, 5), cross, stride=2, padding=1).shape == (1, 1, 3, 3)
    for m in range(3, 9):
        for s in (1, 2, 3):
            assert F.conv2d(ones(1, 1, m, m), cross, stride=s, padding=1).shape[2] == -(-m // s)
    assert F.conv2d(ones(1, 1, 7, 6), ones(1, 1, 4, 5), padding="same").shape == (1, 1, 7, 6)
    assert gpucnn.nn.Conv2d(6, 3, 5, bias=False).weight.numel() == 450
    assert F.max_pool2d(ones(1, 1, 6, 6), 2).shape == (1, 1, 3, 3)
    for m in range(4, 12):
        for d in (1, 2, 3, 4):
            assert F.max_pool2d(ones(1, 1, m, m), d).shape == (1, 1, m // d, m // d)


def test_padding(make: Maker) -> None:
    """E5: zeros, the nearest edge value, "same" and "valid" by name."""
    x = make([[1, 2], [3, 4]]).reshape(1, 1, 2, 2)
    assert F.pad(x, (1, 1, 1, 1))[0, 0].tolist() == [
        [0, 0, 0, 0], [0, 1, 2, 0], [0, 3, 4, 0], [0, 0, 0, 0]
    ]  # fmt: skip
    assert F.pad(x, (1, 1, 1, 1), mode="replicate")[0, 0].tolist() == [
        [1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]
    ]  # fmt: skip
    ones = make(np.ones((1, 1, 3, 3)))
    zero = F.conv2d(x, ones, padding="same")
    assert zero.shape == x.shape and zero.flatten().tolist() == [10, 10, 10, 10]
    edge = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), ones, padding="valid")
    assert edge.shape == x.shape and edge.flatten().tolist() == [18, 21, 24, 27]


def test_xor(make: Maker) -> None:
    """E8: two hidden units compute it; a linear net cannot come closer than a half."""
    x = make([[0, 0], [0, 1], [1, 0], [1, 1]])
    hidden = F.linear(x, make([[1, 1], [1, 1]]), make([0, -1])).relu()
    y = F.linear(hidden, make([[1, -2]])).relu()
    assert y.flatten().tolist() == [0, 1, 1, 0]
    best = np.linalg.lstsq(np.c_[x.cpu().numpy(), np.ones(4)], [0, 1, 1, 0], rcond=None)[0]
    w, b = make(best[None, :2], requires_grad=True), make(best[2:], requires_grad=True)
    loss = F.mse_loss(F.linear(x, w, b), make([[0], [1], [1], [0]]))
    loss.backward()
    make.close(loss, 0.25)
    make.close(w.grad, np.zeros((1, 2)))
    make.close(b.grad, np.zeros(1))


def test_xor_is_learned(device: str) -> None:
    """E8: gradient descent from the engine's own initial weights."""
    x = gpucnn.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]], device=device)
    target = gpucnn.tensor([[0.0], [1], [1], [0]], device=device)
    nn = gpucnn.nn
    for seed in range(10):  # a net this small may start in a dead end
        gpucnn.manual_seed(seed)
        net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)).to(device)
        optimizer = gpucnn.optim.Adam(net.parameters(), lr=0.05)
        for _ in range(500):
            optimizer.zero_grad()
            loss = F.mse_loss(net(x), target)
            loss.backward()
            optimizer.step()
        if loss.item() < 1e-4:
            return
    pytest.fail("no seed learned XOR")


def test_softmax(make: Maker) -> None:
    """E9: rounded values, invariance to a shift bit for bit, and no overflow."""
    p = F.softmax(make([3, 0, 1]), 0)
    assert [round(v, 2) for v in p.tolist()] == [0.84, 0.04, 0.11]
    assert F.softmax(make([5, 2, 3]), 0).tolist() == p.tolist()
    scores = np.array([-1.0, 0, 3, 5])
    assert round(np.exp(scores).sum(), 2) == 169.87
    make.close(F.softmax(make(scores), 0), np.exp(scores) / np.exp(scores).sum())
    assert F.softmax(make([10_000, 0, 10_000]), 0).tolist() == [0.5, 0, 0.5]
    make.close(F.log_softmax(make([10_000, 0]), 0), [0, -10_000])
    assert F.cross_entropy(make([[10_000, 0]]), make.labels([1])).item() == 10_000


def test_gradients_through_shared_weights(make: Maker) -> None:
    """E10: both gradients of a convolution are convolutions themselves."""
    rng = np.random.default_rng(10)
    x = make(rng.integers(-3, 4, (1, 1, 6, 5)), requires_grad=True)
    w = make(rng.integers(-3, 4, (1, 1, 3, 2)), requires_grad=True)
    dy = make(rng.integers(-3, 4, (1, 1, 4, 4)))
    F.conv2d(x, w).backward(dy)
    assert w.grad.tolist() == F.conv2d(x.detach(), dy).tolist()
    turned = w.detach()[:, :, ::-1, ::-1]
    assert x.grad.tolist() == F.conv2d(dy, turned, padding=(2, 1)).tolist()


def test_the_gradient_of_max_pooling(make: Maker) -> None:
    """E10: it goes to the maximum alone."""
    x = make([[1, 5, 2, 0], [3, 4, 8, 6]], requires_grad=True)
    F.max_pool2d(x.reshape(1, 1, 2, 4), 2).backward(make([[[[10, 20]]]]))
    assert x.grad.tolist() == [[0, 10, 0, 0], [0, 0, 20, 0]]


def test_convolution_is_a_matrix_product(make: Maker) -> None:
    """E12 on a smaller image of the same arithmetic: (227 - 11) / 4 + 1 = 55, here 7."""
    rng = np.random.default_rng(12)
    x, w = rng.integers(-2, 3, (3, 35, 35)), rng.integers(-2, 3, (96, 3, 11, 11))
    columns = np.stack([x[:, p : p + 11, q : q + 11].ravel()
                        for p in range(0, 25, 4) for q in range(0, 25, 4)], axis=1)  # fmt: skip
    assert columns.shape == (363, 49) and w.reshape(96, -1).shape == (96, 363)
    y = F.conv2d(make(x[None]), make(w), stride=4)
    assert y.shape == (1, 96, 7, 7)
    np.testing.assert_array_equal(y[0].cpu().numpy().reshape(96, 49), w.reshape(96, -1) @ columns)


def test_a_linear_layer_is_a_convolution(make: Maker) -> None:
    """E13: with a filter as large as its input, and run once over a larger image."""
    rng = np.random.default_rng(13)
    x, w = rng.integers(-2, 3, (2, 5, 7, 7)), rng.integers(-2, 3, (11, 5 * 7 * 7))
    by_matrix = F.linear(make(x).flatten(1), make(w))
    filters = make(w).reshape(11, 5, 7, 7)
    assert F.conv2d(make(x), filters).flatten(1).tolist() == by_matrix.tolist()
    large = make(rng.integers(-2, 3, (1, 5, 10, 9)))
    scores = F.conv2d(large, filters)
    assert scores.shape == (1, 11, 4, 3)
    for p in range(4):
        for q in range(3):
            crop = large[:, :, p : p + 7, q : q + 7].flatten(1)
            assert F.linear(crop, make(w))[0].tolist() == scores[0, :, p, q].tolist()
