"""The same seed gives the same bits: twice, for any number of threads, on any memory order."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

import gpucnn
from gpucnn import models, nn, optim
from gpucnn.nn import functional as F

NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "lenet5": (models.LeNet5, (1, 28, 28)),
    "convnet": (models.ConvNet, (3, 32, 32)),
    "with everything": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, stride=2, groups=16),
            nn.AvgPool2d(2),
            nn.Dropout(0.3),
            nn.Conv2d(16, 24, 1),
            nn.AdaptiveAvgPool2d(3),
            nn.Flatten(),
            nn.Linear(216, 10),
        ),
        (3, 32, 32),
    ),
}


@pytest.fixture
def any_threads() -> Iterator[None]:
    before = gpucnn.get_num_threads()
    yield
    gpucnn.set_num_threads(before)


def _train(name: str, device: str, images: int = 24, steps: int = 2) -> list[bytes]:
    """Every parameter, gradient, buffer and loss after a few steps, as bytes."""
    gpucnn.manual_seed(11)
    make, shape = NETS[name]
    net = make().to(device)
    optimizer = optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    losses = []
    for _ in range(steps):
        x = gpucnn.randn(images, *shape, device=device)
        labels = gpucnn.randint(10, (images,), device=device)
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.isfinite(losses).all()
    gradients = [p.grad for p in net.parameters()]
    tensors = [*net.state_dict().values(), *gradients]
    return [np.float64(losses).tobytes(), *(np.ascontiguousarray(t).tobytes() for t in tensors)]


@pytest.mark.parametrize("name", NETS)
def test_training_twice(name: str, device: str) -> None:
    assert _train(name, device) == _train(name, device)


@pytest.mark.parametrize("name", NETS)
def test_training_with_any_number_of_threads(name: str, any_threads: None) -> None:
    results = []
    for threads in (1, 2, 3):
        gpucnn.set_num_threads(threads)
        results.append(_train(name, "cpu"))
    assert results[0] == results[1] == results[2]


def _in_order(values: np.ndarray, order: tuple[int, ...]) -> gpucnn.Tensor:
    x = gpucnn.empty(*values.shape, order=order)
    x.copy_(gpucnn.tensor(values))
    return x


@pytest.mark.parametrize("p", [0.1, 0.5, 0.75, 0.999])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1), (1, 2, 3, 0)])
def test_dropout_keeps_by_philox(p: float, order: tuple[int, ...], device: str) -> None:
    """Element i of C order by word i of numpy.random.Philox, whatever the memory order."""
    shape = (5, 7, 11, 13)
    seed, calls = 2**40 + 3, 4
    gpucnn.manual_seed(seed)
    for _ in range(calls):
        gpucnn.random.next_key()
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    x = _in_order(values, order).to(device).requires_grad_()
    y = F.dropout(x, p)
    generator = np.random.Philox(key=np.array([seed, calls], np.uint64))
    words = generator.random_raw(values.size // 2 + 1).view("<u4")[: values.size]
    kept = (words >= round(p * 2**32)).reshape(shape)
    expected = np.where(kept, values * np.float32(1 / (1 - p)), np.float32(0))
    np.testing.assert_array_equal(y.detach().cpu().numpy(), expected)
    assert abs(kept.mean() - (1 - p)) < 0.02
    y.backward(gpucnn.ones(shape, device=device))
    np.testing.assert_array_equal(x.grad.cpu().numpy() != 0, kept)


def test_masks_follow_the_seed(device: str) -> None:
    x = gpucnn.ones(1000, device=device)

    def masks() -> list[list[float]]:
        return [F.dropout(x, 0.5).tolist() for _ in range(3)]

    gpucnn.manual_seed(1)
    first = masks()
    gpucnn.manual_seed(1)
    assert masks() == first and len({tuple(m) for m in first}) == 3
    gpucnn.manual_seed(2)
    assert masks() != first


def test_initial_weights_follow_the_seed(device: str) -> None:
    def weights(seed: int) -> list[bytes]:
        gpucnn.manual_seed(seed)
        state = models.LeNet5().to(device).state_dict()
        return [np.ascontiguousarray(v).tobytes() for v in state.values()]

    assert weights(5) == weights(5) != weights(6)


def test_a_rows_softmax_does_not_depend_on_its_neighbours(device: str) -> None:
    rows = np.random.default_rng(1).standard_normal((64, 10)).astype(np.float32)
    rows[-1] = 500  # out of the range of exp
    together = gpucnn.tensor(rows, device=device).softmax(1).cpu().numpy()
    alone = [gpucnn.tensor(row, device=device).softmax(0).cpu().numpy() for row in rows]
    np.testing.assert_array_equal(together, np.stack(alone))
