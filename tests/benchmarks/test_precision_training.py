"""The NumPy model of precisions that nets are trained on to see what accuracy they reach."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import gpucnn
from gpucnn import backends, nn
from gpucnn.benchmarks import precision_training as training
from gpucnn.core.device import CPU

ROUNDINGS = {
    "tf32": (training.to_tf32, 2.0**-10),
    "bf16": (training.to_bf16, 2.0**-8),
    "fp16": (training.to_fp16, 2.0**-11),
}


@pytest.mark.parametrize("name", ROUNDINGS)
def test_rounding(name: str) -> None:
    """Within the precision's unit, exact where it can be, and once is enough."""
    rounded, unit = ROUNDINGS[name]
    x = np.random.default_rng(0).standard_normal(2000).astype(np.float32)
    y = rounded(x)
    assert y.dtype == np.float32
    error = np.abs(y.astype(np.float64) - x) / np.abs(x)
    assert unit / 2 < error.max() <= unit
    assert np.array_equal(rounded(y), y)
    whole = np.arange(-256, 257, dtype=np.float32)
    assert np.array_equal(rounded(whole), whole)
    special = np.array([np.inf, -np.inf, 0.0, -0.0], np.float32)
    assert np.array_equal(rounded(special), special)
    assert np.isnan(rounded(np.array([np.nan, -np.nan], np.float32))).all()


def test_rounding_goes_to_the_nearest_and_ties_to_even() -> None:
    ties = np.array([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20], np.float32)
    assert training.to_bf16(ties).tolist() == [1.0, 1 + 2**-6, 1 + 2**-7]
    assert training.to_tf32(np.array([1.9999999], np.float32))[0] == 2 - 2**-10
    assert training.to_fp16(np.array([70000.0, 1e-8], np.float32)).tolist() == [np.inf, 0.0]


def test_all_products_round_their_operands() -> None:
    """Forward and backward of a convolution and a linear layer; nothing else does."""
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(18, 3))
    x = gpucnn.randn(2, 1, 5, 5, requires_grad=True)
    found: dict[str, Any] = {}
    for name in ("fp32", "tf32", "bf16", "fp16"):
        model.precision = name
        backend = training.RoundingBackend(backends.get(CPU))
        with backends.serving(CPU, backend):  # type: ignore[arg-type]
            y = model(x)
            y.sum().backward()
        found[name] = y.detach().numpy()
        assert backend.rounded == ({} if name == "fp32" else {name: 12})
    errors = {name: np.abs(y - found["fp32"]).max() for name, y in found.items()}
    assert 0 == errors["fp32"] < errors["fp16"] < errors["bf16"] < 0.1


def test_the_table_and_its_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"fp32": 99.0, "tf32": 98.9, "bf16": 98.8, "fp16": 99.1}
    monkeypatch.setattr(training, "accuracy", lambda *arguments: values[arguments[1]])
    result = CliRunner().invoke(training.main, ["--seeds", "2"])
    assert result.exit_code == 0
    assert "digits: digits_net, 20 epochs" in result.output
    assert "| bf16 | 98.80 % | 0.00 | -0.20 |" in result.output
    values["fp16"] = 98.6
    result = CliRunner().invoke(training.main, ["--seeds", "1"])
    assert result.exit_code == 1 and "fp16: more than 0.3 points behind fp32" in result.output


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_net_learns(precision: str) -> None:
    """Two epochs: well above what guessing gives, and float16 with its loss scaled."""
    assert training.accuracy("digits", precision, seed=0, epochs=2) > 80
