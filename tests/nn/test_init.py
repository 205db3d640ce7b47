"""Initial values: bounds, moments, reproducibility, independence of order and dtype."""

from __future__ import annotations

import math

import numpy as np
import pytest

import gpucnn
from gpucnn import nn
from gpucnn.nn import init


def test_default_bounds_are_those_of_torch() -> None:
    gpucnn.manual_seed(0)
    conv = nn.Conv2d(8, 64, 3, groups=2)  # fan_in = 4 * 9
    linear = nn.Linear(100, 50)
    for layer, fan_in in ((conv, 36), (linear, 100)):
        bound = 1 / math.sqrt(fan_in)
        for values in (layer.weight.detach().numpy(), layer.bias.detach().numpy()):
            assert np.abs(values).max() <= bound
            assert np.abs(values).max() > 0.8 * bound
            assert abs(values.mean()) < 0.35 * bound
        # The variance of a uniform distribution is a third of the bound's square.
        assert layer.weight.detach().numpy().var() == pytest.approx(bound**2 / 3, rel=0.1)


def test_the_seed_decides_and_the_order_of_memory_does_not() -> None:
    gpucnn.manual_seed(11)
    first = nn.Conv2d(3, 4, 3)
    second = nn.Conv2d(3, 4, 3)
    gpucnn.manual_seed(11)
    again = nn.Conv2d(3, 4, 3, dtype=gpucnn.float64)
    gpucnn.manual_seed(11)
    plain = gpucnn.empty(4, 3, 3, 3)  # C order
    init.kaiming_uniform_(plain, a=math.sqrt(5))
    np.testing.assert_array_equal(first.weight.detach().numpy(), plain.numpy())
    np.testing.assert_array_equal(again.weight.detach().numpy().astype(np.float32), plain.numpy())
    assert first.weight.tolist() != second.weight.tolist()


@pytest.mark.parametrize(
    ("fill", "std", "bounded"),
    [
        (lambda t: init.uniform_(t, -2, 1), 3 / math.sqrt(12), (-2, 1)),
        (lambda t: init.normal_(t, 0.0, 0.5), 0.5, None),
        (lambda t: init.kaiming_uniform_(t, nonlinearity="relu"), math.sqrt(2 / 270), None),
        (lambda t: init.kaiming_normal_(t, mode="fan_out"), math.sqrt(2 / 720), None),
        (lambda t: init.xavier_uniform_(t, 2.0), 2 * math.sqrt(2 / 990), None),
        (lambda t: init.xavier_normal_(t), math.sqrt(2 / 990), None),
    ],
)
def test_moments(fill: object, std: float, bounded: tuple[float, float] | None) -> None:
    gpucnn.manual_seed(1)
    tensor = gpucnn.empty(80, 30, 3, 3)  # fan_in 270, fan_out 720
    assert fill(tensor) is tensor
    values = tensor.numpy()
    assert values.std() == pytest.approx(std, rel=0.02)
    if bounded:
        assert bounded[0] <= values.min() < values.max() < bounded[1]


def test_trunc_normal_stays_inside() -> None:
    gpucnn.manual_seed(1)
    values = init.trunc_normal_(gpucnn.empty(20_000), std=1.0, a=-1.0, b=0.5).numpy()
    assert values.min() >= -1 and values.max() <= 0.5 and values.std() > 0.3
    with pytest.raises(ValueError, match="at least 1 % of the normal distribution"):
        init.trunc_normal_(gpucnn.empty(3), a=5.0, b=6.0)


def test_constants_gains_and_errors() -> None:
    parameter = nn.Parameter(gpucnn.zeros(2, 2))
    assert init.constant_(parameter, 3.0).tolist() == [[3, 3], [3, 3]]
    assert init.ones_(parameter).tolist() == [[1, 1], [1, 1]]
    assert init.zeros_(parameter).tolist() == [[0, 0], [0, 0]]
    assert parameter.requires_grad and parameter.is_leaf
    assert init.calculate_gain("linear") == 1
    assert init.calculate_gain("tanh") == 5 / 3
    assert init.calculate_gain("relu") == math.sqrt(2)
    assert init.calculate_gain("leaky_relu", 2) == pytest.approx(math.sqrt(2 / 5))
    with pytest.raises(ValueError, match="unsupported nonlinearity 'swish2'"):
        init.calculate_gain("swish2")
    with pytest.raises(ValueError, match="fewer than 2 dimensions"):
        init.kaiming_uniform_(gpucnn.empty(3))
    with pytest.raises(ValueError, match="mode must be"):
        init.kaiming_uniform_(gpucnn.empty(3, 3), mode="fan")


def test_a_generator_of_ones_own() -> None:
    values = init.uniform_(gpucnn.empty(3), generator=np.random.default_rng(5)).numpy()
    np.testing.assert_array_equal(
        values, np.random.default_rng(5).uniform(size=3).astype(np.float32)
    )
