from __future__ import annotations

import numpy as np
import pytest
import reference
from cpu_helpers import BACKEND, FLOATS, close

from gpucnn.backends.cpu.threads import get_num_threads, set_num_threads

P = BACKEND.primitives
SGD = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1},
    {"momentum": 0.8, "nesterov": True, "weight_decay": 0.05},
    {"maximize": True},
    {"momentum": 0.8, "nesterov": True, "maximize": True},
    {"momentum": 0.7, "weight_decay": 0.2, "maximize": True},
    {"weight_decay": 0.2},
]
ADAM = [
    {},
    {"weight_decay": 0.1},
    {"weight_decay": 0.1, "decoupled": True},
    {"maximize": True, "weight_decay": 0.1},
    {"maximize": True, "weight_decay": 0.1, "decoupled": True},
    {"beta1": 0.5, "beta2": 0.9, "eps": 1e-3},
]


def sgd(p, g, buffer, lr=0.1, first=False, **given):
    options = {"momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False,
               "maximize": False, **given}  # fmt: skip
    P["sgd_update"](p, g, buffer, np.array([lr]), first=first, **options)


def adam(p, g, m, v, step, lr=0.1, **given):
    options = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0, "decoupled": False,
               "maximize": False, **given}  # fmt: skip
    rates = np.array(
        [
            lr / (1 - options["beta1"] ** step),
            np.sqrt(1 - options["beta2"] ** step),
            1 - lr * options["weight_decay"],
        ]
    )
    P["adam_update"](p, g, m, v, rates, **options)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("size", [0, 1, 13])
@pytest.mark.parametrize("options", SGD)
def test_sgd(options, size, dtype):
    rng = np.random.default_rng(0)
    p = rng.standard_normal(size).astype(dtype)
    buffer = np.full(size, 77, dtype) if "momentum" in options else None
    expected, expected_buffer = p, None
    for step in range(3):
        g = rng.standard_normal(size).astype(dtype)
        before = g.copy()
        expected, expected_buffer = reference.sgd_step(
            expected, g, expected_buffer, lr=0.1, first=step == 0, **options
        )
        sgd(p, g, buffer, first=step == 0, **options)
        close(p, expected, dtype)
        np.testing.assert_array_equal(g, before)
    if buffer is not None:
        close(buffer, expected_buffer, dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("size", [0, 1, 13])
@pytest.mark.parametrize("options", ADAM)
def test_adam(options, size, dtype):
    rng = np.random.default_rng(1)
    p = rng.standard_normal(size).astype(dtype)
    m, v = np.zeros(size, dtype), np.zeros(size, dtype)
    expected = p, m.copy(), v.copy()
    for step in range(1, 5):
        g = rng.standard_normal(size).astype(dtype)
        before = g.copy()
        full = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, **options}
        expected = reference.adam_step(expected[0], g, *expected[1:], lr=0.1, step=step, **full)
        adam(p, g, m, v, step, **options)
        np.testing.assert_array_equal(g, before)
        for actual, wanted in zip((p, m, v), expected):
            close(actual, wanted, dtype, 2)


@pytest.mark.parametrize("options", SGD)
def test_sgd_against_torch(options):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(2)
    p = rng.standard_normal(40).astype(np.float32)
    parameter = torch.nn.Parameter(torch.tensor(p))
    optimizer = torch.optim.SGD([parameter], lr=0.1, **options)
    buffer = np.zeros(40, np.float32) if "momentum" in options else None
    for step in range(4):
        g = rng.standard_normal(40).astype(np.float32)
        parameter.grad = torch.tensor(g)
        optimizer.step()
        sgd(p, g, buffer, first=step == 0, **options)
        np.testing.assert_allclose(p, parameter.detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("decoupled", [False, True])
def test_adam_against_torch(decoupled):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    p = rng.standard_normal(40).astype(np.float32)
    parameter = torch.nn.Parameter(torch.tensor(p))
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    optimizer = kind([parameter], lr=0.1, weight_decay=0.01)
    m, v = np.zeros_like(p), np.zeros_like(p)
    for step in range(1, 6):
        g = rng.standard_normal(40).astype(np.float32)
        parameter.grad = torch.tensor(g)
        optimizer.step()
        adam(p, g, m, v, step, weight_decay=0.01, decoupled=decoupled)
        np.testing.assert_allclose(p, parameter.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_large_steps_have_the_same_bits_for_any_number_of_threads():
    size = 400_003
    rng = np.random.default_rng(4)
    start, g = (rng.standard_normal(size).astype(np.float32) for _ in "12")
    before = get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            set_num_threads(threads)
            p, m, v = start.copy(), np.zeros_like(g), np.zeros_like(g)
            buffer = np.zeros_like(g)
            for step in (1, 2):
                adam(p, g, m, v, step, weight_decay=0.1)
                sgd(p, g, buffer, momentum=0.9, nesterov=True, first=step == 1)
            results.append(b"".join(a.tobytes() for a in (p, m, v, buffer)))
    finally:
        set_num_threads(before)
    assert results[0] == results[1] == results[2]
    small = start[-5:].copy(), *(np.zeros(5, np.float32) for _ in "12")
    adam(*(small[0], g[-5:], *small[1:]), 1)
    large = start.copy(), *(np.zeros_like(g) for _ in "12")
    adam(*(large[0], g, *large[1:]), 1)
    np.testing.assert_allclose(large[0][-5:], small[0], rtol=1e-6)


def test_overflow_and_nan_do_not_warn():
    p, g = np.array([1e38, 1.0], np.float32), np.array([np.inf, np.nan], np.float32)
    sgd(p, g, np.zeros(2, np.float32), momentum=0.9)
    adam(np.ones(2, np.float32), g, np.zeros(2, np.float32), np.zeros(2, np.float32), 1)
