"""summary: counts by hand, and a model left as it was."""

from __future__ import annotations

import numpy as np
import pytest

import gpucnn
from gpucnn import nn


def test_counts_by_hand() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, groups=1),  # 2 x 8 x 6 x 4
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),  # 2 x 8 x 3 x 2
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5, bias=False),
    )
    result = nn.summary(net, (2, 3, 6, 4))
    assert [layer.type for layer in result.layers] == [type(m).__name__ for m in net]
    assert [layer.parameters for layer in result.layers] == [224, 16, 0, 0, 0, 0, 40]
    outputs = 2 * 8 * 6 * 4
    pooled = 2 * 8 * 3 * 2
    assert [layer.flops for layer in result.layers] == [
        2 * outputs * 27,
        2 * outputs,
        0,
        4 * pooled,
        pooled,
        0,
        2 * 2 * 5 * 8,
    ]
    assert result.layers[3].output_shape == (2, 8, 3, 2)
    assert result.layers[0].activation_bytes == 4 * outputs
    assert result.parameters == 280 and result.parameter_bytes == 1120
    text = str(result)
    assert "input 2 x 3 x 6 x 4" in text and "2 x 8 x 3 x 2" in text
    assert text.splitlines()[-2].split()[:2] == ["total", "280"]


def test_e12_convolution_as_matrix_product() -> None:
    """227 x 227 x 3 with 96 filters 11 x 11 stride 4: 96 x 363 times 363 x 3025."""
    result = gpucnn.summary(nn.Conv2d(3, 96, 11, 4, bias=False), (1, 3, 227, 227))
    assert result.layers[0].output_shape == (1, 96, 55, 55)
    assert result.flops == 2 * 96 * 363 * 3025


def test_the_model_is_left_as_it_was() -> None:
    net = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5), nn.Linear(2, 1).requires_grad_(False))
    net[1].eval()
    before = {key: np.array(value) for key, value in net.state_dict().items()}
    state = gpucnn.random.get_state()
    result = nn.summary(net, gpucnn.ones(3, 2))
    assert [m.training for m in net.modules()] == [True, True, False, True]
    assert not any(m._forward_hooks for m in net.modules())
    assert gpucnn.random.get_state() == state
    for key, value in net.state_dict().items():
        np.testing.assert_array_equal(np.asarray(value), before[key])
    assert result.trainable_parameters == 4 and "3 of them frozen" in str(result)


def test_a_failing_model_is_left_as_it_was_too() -> None:
    net = nn.Sequential(nn.Linear(3, 1))
    with pytest.raises(ValueError):
        nn.summary(net, (1, 4))
    assert net.training and not net[0]._forward_hooks


def test_a_layer_called_twice_counts_twice() -> None:
    shared = nn.Linear(4, 4)
    net = nn.Sequential(shared, nn.ReLU(), shared)
    result = nn.summary(net.double(), (1, 4))
    assert len(result.layers) == 2 and result.parameters == 20
    assert result.flops == 2 * 2 * 16 and result.layers[0].activation_bytes == 2 * 4 * 8
