from __future__ import annotations

import math

import numpy as np
import pytest
import reference
from cpu_helpers import FLOATS, close, run, strided


def forward(logits, target, weight, **attributes):
    shape = (logits.shape[0],) if attributes["reduction"] == "none" else ()
    dtype = logits.dtype
    outputs = [(shape, dtype), (logits.shape, dtype), ((), dtype)]
    return run("cross_entropy", [logits, target, weight], outputs, **attributes)


def backward(dloss, log_p, target, weight, divisor, **attributes):
    outputs = [(log_p.shape, log_p.dtype)]
    inputs = [dloss, log_p, target, weight, divisor]
    return run("cross_entropy_backward", inputs, outputs, **attributes)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("ignore_index", [-100, 2])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy(weighted, ignore_index, label_smoothing, reduction, dtype):
    rng = np.random.default_rng(0)
    logits = (3 * rng.standard_normal((11, 7))).astype(dtype)
    target = rng.integers(0, 7, 11)
    target[:2] = 2
    if ignore_index == -100:
        target[4] = -100
    weight = rng.random(7).astype(dtype) if weighted else None
    attributes = {
        "ignore_index": ignore_index, "label_smoothing": label_smoothing, "reduction": reduction,
    }  # fmt: skip
    expected = reference.cross_entropy(logits, target, weight, **attributes)
    dloss = np.asarray(rng.standard_normal(11 if reduction == "none" else ()), dtype)
    for view in (logits, np.asfortranarray(logits), strided(logits)):
        loss, log_p, divisor = forward(view, target, weight, **attributes)
        for actual, wanted in zip((loss, log_p, divisor), expected):
            close(actual, wanted, dtype)
    dlogits = backward(dloss, log_p, target, weight, divisor, **attributes)
    close(dlogits, reference.cross_entropy_backward(dloss, logits, target, weight, **attributes),
          dtype)  # fmt: skip


PLAIN = {"ignore_index": -100, "label_smoothing": 0.0, "reduction": "mean"}


@pytest.mark.parametrize(("rows", "classes"), [(1, 1), (1, 9), (6, 1), (700, 300), (40_000, 10)])
def test_sizes_against_torch(rows, classes):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    logits = rng.standard_normal((rows, classes)).astype(np.float32)
    target = rng.integers(0, classes, rows)
    loss, log_p, divisor = forward(logits, target, None, **PLAIN)
    x = torch.tensor(logits, requires_grad=True)
    torch_loss = torch.nn.functional.cross_entropy(x, torch.tensor(target))
    torch_loss.backward()
    np.testing.assert_allclose(loss, torch_loss.item(), rtol=2e-6, atol=1e-7)
    dlogits = backward(np.float32(1).reshape(()), log_p, target, None, divisor, **PLAIN)
    close(dlogits, x.grad.numpy(), np.float32)


def test_every_row_ignored():
    logits = np.random.default_rng(2).standard_normal((3, 4)).astype(np.float32)
    target = np.full(3, 1)
    for reduction, expected in (("mean", math.nan), ("sum", 0.0)):
        attributes = {**PLAIN, "ignore_index": 1, "reduction": reduction}
        loss, log_p, divisor = forward(logits, target, None, **attributes)
        np.testing.assert_array_equal(loss, expected)
        assert divisor == (0 if reduction == "mean" else 1)
        one = np.array(1, np.float32)
        assert not backward(one, log_p, target, None, divisor, **attributes).any()


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_extreme_and_infinite_logits_as_torch(label_smoothing):
    torch = pytest.importorskip("torch")
    inf, nan = math.inf, math.nan
    rows = [[1e4, -1e4, 0], [0, -inf, 1], [-inf, 0, 1], [inf, 0, 1], [nan, 0, 1], [-1e4, 1e4, 1e4]]
    logits, target = np.array(rows, np.float32), np.array([1, 0, 0, 0, 1, 2])
    attributes = {**PLAIN, "reduction": "none", "label_smoothing": label_smoothing}
    loss, log_p, divisor = forward(logits, target, None, **attributes)
    x = torch.tensor(logits, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(
        x, torch.tensor(target), reduction="none", label_smoothing=label_smoothing
    )
    np.testing.assert_allclose(loss, expected.detach().numpy(), rtol=2e-6)
    expected.backward(torch.ones(6))
    dlogits = backward(np.ones(6, np.float32), log_p, target, None, divisor, **attributes)
    np.testing.assert_allclose(dlogits, x.grad.numpy(), rtol=2e-6, atol=1e-6)


def test_a_row_of_infinite_logits_that_is_ignored_does_not_matter():
    logits = np.array([[0, 1], [math.inf, math.nan]], np.float32)
    target = np.array([1, -100])
    loss, log_p, divisor = forward(logits, target, None, **PLAIN)
    assert np.isfinite(loss)
    dlogits = backward(np.array(1, np.float32), log_p, target, None, divisor, **PLAIN)
    assert np.isfinite(dlogits).all() and not dlogits[1].any()


def test_no_rows():
    logits, target = np.zeros((0, 5), np.float32), np.zeros(0, np.int64)
    loss, log_p, divisor = forward(logits, target, None, **PLAIN)
    assert math.isnan(loss) and divisor == 0
    assert backward(np.array(1, np.float32), log_p, target, None, divisor, **PLAIN).size == 0
    assert forward(logits, target, None, **{**PLAIN, "reduction": "sum"})[0] == 0
