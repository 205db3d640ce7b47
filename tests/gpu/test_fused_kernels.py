"""What fused primitives add to the plain ones, on the emulated device against the cpu in float64:
masks, ReLUs, addends, running statistics, gradients beside results, values in device memory; with
odd sizes, NaN, nothing at all, and arrays that lie anywhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpucnn.backends.cpu import CpuBackend
from gpucnn.backends.gpu import GpuBackend, nvrtc

if not nvrtc.compilers():
    pytest.skip("no NVRTC to make PTX", allow_module_level=True)

from gpucnn.backends.gpu.emulated import EmulatedRuntime  # noqa: E402
from gpucnn.cases.compare import assert_close  # noqa: E402

LAST = (0, 2, 3, 1)
CPU = CpuBackend().primitives
RUNTIME = EmulatedRuntime()
GPU = GpuBackend(RUNTIME).primitives


def random(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """Of about 1, with a NaN where there is room for one that does not reach everything."""
    return np.random.default_rng(seed).standard_normal(shape)


def on_device(array: Any, order: Any = None, offset: int = 0) -> Any:
    """A float64 array as float32 on the device, in a memory order, `offset` elements behind where
    wide accesses may begin; others as they are.
    """
    if array is None:
        return None
    array = np.asarray(array)
    dtype = np.float32 if array.dtype == np.float64 else array.dtype
    if offset:
        result = RUNTIME.empty((array.size + offset,), dtype)[offset:].reshape(array.shape)
    else:
        result = RUNTIME.empty(array.shape, dtype, order)
    result[...] = array
    return result


def new(*shape: int, order: Any = None, dtype: Any = np.float32) -> Any:
    return RUNTIME.empty(shape, dtype, order)


def launches(call: Any) -> list[str]:
    """The kernels of a call."""
    RUNTIME.launches = []
    try:
        call()
        return [launch.kernel.entry for launch in RUNTIME.launches]
    finally:
        RUNTIME.launches = None


# ---- matrix products
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("m,k,n", [(7, 5, 3), (33, 40, 36), (5, 900, 9), (1, 0, 4)])
def test_matmul(m: int, k: int, n: int, masked: bool, relu: bool) -> None:
    a, b, bias = random(m, k), random(k, n, seed=1), random(n, seed=2)
    mask = random(m, n, seed=3) if masked else None
    if k:
        a[0, 0] = np.nan  # a row of NaN, which neither ReLU nor mask may hide from the other
    expected, y = np.empty((m, n)), new(m, n)
    CPU["matmul"](a, b, bias, mask, expected, relu=relu, precision="auto")
    arrays = [on_device(v) for v in (a, b, bias, mask)]
    GPU["matmul"](*arrays, y, relu=relu, precision="auto")
    assert_close(y, expected, 2e-6)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("m,o,i", [(1, 3, 5), (37, 10, 84), (3000, 5, 7), (0, 4, 3)])
def test_linear_backward_weight(m: int, o: int, i: int, with_bias: bool) -> None:
    x, dy = random(m, i), random(m, o, seed=1)
    expected = np.empty((o, i)), np.empty(o)
    CPU["linear_backward_weight"](x, dy, *expected, precision="auto")
    dw, db = new(o, i), new(o) if with_bias else None
    arrays = on_device(x), on_device(dy)
    made = launches(lambda: GPU["linear_backward_weight"](*arrays, dw, db, precision="auto"))
    assert len(made) == (2 if m == 3000 else 1), made
    assert_close(dw, expected[0], 2e-6, "dw")
    if db is not None:
        assert_close(db, expected[1], 2e-6, "db")


# ---- batch normalisation
SHAPES = [
    ((3, 8, 5, 7), LAST), ((2, 36, 5, 3), LAST), ((3, 5, 4, 3), LAST), ((3, 8, 5, 7), None),
    ((9, 6), None), ((2, 3, 4, 2, 3), None),
]  # fmt: skip


@pytest.mark.parametrize("momentum", [0.1, 1.0])
@pytest.mark.parametrize(("shape", "order"), SHAPES)
def test_running_statistics(shape: tuple[int, ...], order: Any, momentum: float) -> None:
    x, c = random(*shape) * 3 + 50, shape[1]
    running = random(2 * c, seed=1)[::2], random(2 * c, seed=2)[::2]  # strided, as in flat storage
    ours = [on_device(np.repeat(v, 2))[::2] for v in running]
    expected = [v.copy() for v in running]
    result, wanted = [new(c), new(c)], [np.empty(c), np.empty(c)]
    CPU["batch_norm_statistics"](x, *expected, *wanted, momentum=momentum)
    x32 = on_device(x, order)
    made = launches(lambda: GPU["batch_norm_statistics"](x32, *ours, *result, momentum=momentum))
    assert made == ["batch_norm_moments", "batch_norm_moments_finish"]
    for actual, value in zip([*ours, *result], [*expected, *wanted]):
        assert_close(actual, value, 2e-6)


def test_statistics_of_one_value_a_channel_are_infinite_when_unbiased() -> None:
    """As in PyTorch, whose layers refuse it: the variance of one value is 0 / 0 without bias."""
    running = on_device(np.zeros(4)), on_device(np.ones(4))
    mean, variance = new(4), new(4)
    x = on_device(random(1, 4, 1, 1), LAST)
    GPU["batch_norm_statistics"](x, *running, mean, variance, momentum=0.1)
    np.testing.assert_array_equal(mean, x.reshape(4))
    assert (variance == 0).all() and np.isnan(running[1]).all()


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize(
    ("shape", "order", "offset"), [*((*row, 0) for row in SHAPES), ((33, 8), None, 1)]
)
def test_batch_norm(
    shape: tuple[int, ...], order: Any, added: bool, relu: bool, offset: int
) -> None:
    c, x = shape[1], random(*shape)
    x.flat[3] = np.nan
    addend = random(*shape, seed=1) if added else None
    vectors = random(c, seed=2), random(c, seed=3) ** 2, random(c, seed=4), random(c, seed=5)
    expected, y = np.empty(shape), new(*shape, order=order)
    CPU["batch_norm"](x, *vectors, addend, expected, eps=1e-3, relu=relu)
    arrays = on_device(x, order, offset), *map(on_device, vectors), on_device(addend, order)
    made = launches(lambda: GPU["batch_norm"](*arrays, y, eps=1e-3, relu=relu))
    assert made == ["batch_norm_forward"]
    assert_close(y, expected, 5e-6)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize(("shape", "order"), SHAPES)
def test_batch_norm_backward(
    shape: tuple[int, ...], order: Any, added: bool, masked: bool, training: bool
) -> None:
    c = shape[1]
    dy, x = random(*shape), random(*shape, seed=1)
    y = random(*shape, seed=2) if masked else None
    if y is not None:
        y.flat[::7] = 0  # the edge: 0 is masked
    vectors = random(c, seed=3), random(c, seed=4) ** 2 + 0.1, random(c, seed=5)
    wanted = np.empty(shape), np.empty(c), np.empty(c), np.empty(shape) if added else None
    options = {"eps": 1e-3, "training": training}
    CPU["batch_norm_backward"](dy, x, *vectors, y, *wanted, **options)
    ours = new(*shape, order=order), new(c), new(c), new(*shape, order=order) if added else None
    arrays = on_device(dy, order), on_device(x, order), *map(on_device, vectors)
    y32 = on_device(y, order)
    made = launches(lambda: GPU["batch_norm_backward"](*arrays, y32, *ours, **options))
    assert made == ["batch_norm_backward_sums", "batch_norm_backward"]
    for actual, value in zip(ours, wanted):
        if value is not None:
            assert_close(actual, value, 5e-6)


def test_operands_in_another_memory_order_are_copied() -> None:
    shape = (2, 8, 3, 5)
    dy, x, more = random(*shape), random(*shape, seed=1), new(*shape)
    vectors = random(8, seed=3), random(8, seed=4) ** 2 + 0.1, random(8, seed=5)
    wanted = np.empty(shape), np.empty(8), np.empty(8), np.empty(shape)
    options = {"eps": 1e-3, "training": True}
    CPU["batch_norm_backward"](dy, x, *vectors, x, *wanted, **options)
    ours = new(*shape, order=LAST), new(8), new(8), more  # more is in C order
    arrays = on_device(dy), on_device(x, LAST), *map(on_device, vectors), on_device(x)
    GPU["batch_norm_backward"](*arrays, *ours, **options)
    for actual, value in zip(ours, wanted):
        assert_close(actual, value, 5e-6)


@pytest.mark.parametrize("order", [LAST, None])
def test_batch_norm_of_nothing(order: Any) -> None:
    x, c = new(0, 4, 3, 3, order=order), 4
    vectors = [on_device(np.ones(c)) for _ in range(4)]
    GPU["batch_norm"](x, *vectors, None, x, eps=1e-3, relu=True)
    dw, db = new(c), new(c)
    GPU["batch_norm_backward"](x, x, *vectors[:3], None, x, dw, db, None, eps=1e-3, training=False)
    assert (dw == 0).all() and (db == 0).all()


# ---- cross entropy
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("m,c", [(7, 10), (70, 3), (5, 33), (3, 1100), (1, 1)])
def test_cross_entropy_is_that_of_two_primitives(
    m: int, c: int, smoothing: float, reduction: str
) -> None:
    x, weight = on_device(3 * random(m, c)), on_device(random(c, seed=1) ** 2)
    target = np.random.default_rng(2).integers(0, c, m)
    target[::5] = -100
    t = on_device(target)
    options = {"ignore_index": -100, "label_smoothing": smoothing, "reduction": reduction}
    shape = (m,) if reduction == "none" else ()
    loss, gradient = new(*shape), new(m, c)
    call = GPU["cross_entropy_with_gradient"]
    assert len(launches(lambda: call(x, t, weight, loss, gradient, **options))) == 1
    apart, logp, by, other = new(*shape), new(m, c), new(), new(m, c)
    GPU["cross_entropy"](x, t, weight, apart, logp, by, **options)
    GPU["cross_entropy_backward"](on_device(np.ones(shape)), logp, t, weight, by, other, **options)
    assert_close(loss, apart, 1e-6)
    assert_close(gradient, other, 1e-6)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_cross_entropy_of_several_blocks(reduction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpucnn.backends.gpu import loss as module

    x, t = random(700, 6), np.random.default_rng(2).integers(0, 6, 700)
    options = {"ignore_index": 3, "label_smoothing": 0.0, "reduction": reduction}
    expected = np.empty(()), np.empty((700, 6))
    CPU["cross_entropy_with_gradient"](x, t, None, *expected, **options)
    monkeypatch.setattr(module, "ONE_BLOCK", 0)
    arrays, ours = (on_device(x), on_device(t), None), (new(), new(700, 6))
    made = launches(lambda: GPU["cross_entropy_with_gradient"](*arrays, *ours, **options))
    first = ["cross_entropy_weights"] if reduction == "mean" else []
    assert made == [*first, "cross_entropy_with_gradient", "cross_entropy_finish"]
    for actual, value in zip(ours, expected):
        assert_close(actual, value, 1e-6)


def test_class_numbers_out_of_range_give_nan() -> None:
    x, t = on_device(random(6, 5)), on_device(np.array([0, 5, -1, -100, 4, 2**40]))
    loss, gradient = new(6), new(6, 5)
    GPU["cross_entropy_with_gradient"](
        x, t, None, loss, gradient, ignore_index=-100, label_smoothing=0.0, reduction="none"
    )
    wrong = np.array([False, True, True, False, False, True])
    np.testing.assert_array_equal(np.isnan(loss), wrong)
    np.testing.assert_array_equal(np.isnan(gradient).all(axis=1), wrong)
    assert loss[3] == 0 and (gradient[3] == 0).all()


def test_logits_that_are_not_finite() -> None:
    x, t = random(5, 4), np.array([0, 1, 2, -100, 3])
    x[0, 1], x[1, 1], x[2, 2], x[3] = -np.inf, np.inf, np.nan, np.nan
    options = {"ignore_index": -100, "label_smoothing": 0.0, "reduction": "none"}
    expected, ours = (np.empty(5), np.empty((5, 4))), (new(5), new(5, 4))
    CPU["cross_entropy_with_gradient"](x, t, None, *expected, **options)
    GPU["cross_entropy_with_gradient"](on_device(x), on_device(t), None, *ours, **options)
    for actual, value in zip(ours, expected):
        assert_close(actual, value, 1e-6)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy_of_nothing(reduction: str) -> None:
    loss = new(0) if reduction == "none" else new()
    x, t = new(0, 3), new(0, dtype=np.int64)
    GPU["cross_entropy_with_gradient"](
        x, t, None, loss, new(0, 3), ignore_index=-1, label_smoothing=0.0, reduction=reduction
    )
    if reduction != "none":
        assert np.isnan(loss) if reduction == "mean" else loss == 0


# ---- dropout
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize(
    ("shape", "order"),
    [((1003,), None), ((3, 20, 9, 5), LAST), ((2, 5, 70, 3), LAST), ((2, 3, 4, 5), (3, 1, 2, 0))],
)
def test_dropout_reads_its_key(shape: tuple[int, ...], order: Any, offset: int) -> None:
    """The mask of NumPy's Philox, from a key that lies anywhere in device memory."""
    key = np.array([-5, 2**62 + 3], np.int64)
    x, y, expected = random(*shape), new(*shape, order=order), np.empty(shape)
    CPU["dropout"](x, key, expected, p=0.4)
    ours = on_device(key, offset=offset)
    GPU["dropout"](on_device(x, order), ours, y, p=0.4)
    assert_close(y, expected, 1e-6)
    assert ((y == 0) == (expected == 0)).all()


def test_dropout_keeps_all_or_next_to_nothing() -> None:
    x, y, key = on_device(np.ones(5000)), new(5000), on_device(np.zeros(2, np.int64))
    GPU["dropout"](x, key, y, p=0.0)
    assert (y == 1).all()
    GPU["dropout"](x, key, y, p=1 - 2.0**-33)  # a threshold of 2^32: no word reaches it
    assert (y == 0).all()


# ---- optimizers
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("size", [1, 3, 1003])
@pytest.mark.parametrize(
    ("momentum", "dampening", "nesterov", "maximize", "first"),
    [(0.0, 0.0, False, True, False), (0.9, 0.0, True, False, False),
     (0.9, 0.3, False, False, False), (0.9, 0.3, False, False, True)],
)  # fmt: skip
def test_sgd_reads_its_rate(
    size: int, offset: int, momentum: float, dampening: float, nesterov: bool, maximize: bool,
    first: bool,
) -> None:  # fmt: skip
    p, g, buffer = random(size), random(size, seed=1), random(size, seed=2)
    options: dict[str, Any] = {
        "momentum": momentum, "dampening": dampening, "weight_decay": 0.01,
        "nesterov": nesterov, "maximize": maximize, "first": first,
    }  # fmt: skip
    rates = np.array([0.25])
    ours = on_device(p, offset=offset), on_device(g), on_device(buffer)
    if first:
        ours[2][...] = np.nan  # not to be read
    used = momentum != 0
    device_rates = new(1, dtype=np.float64)
    device_rates[...] = rates
    GPU["sgd_update"](*ours[:2], ours[2] if used else None, device_rates, **options)
    CPU["sgd_update"](p, g, buffer if used else None, rates, **options)
    assert_close(ours[0], p, 1e-6)
    if used:
        assert_close(ours[2], buffer, 1e-6)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("size", [1, 3, 1003])
@pytest.mark.parametrize("decoupled", [False, True])
def test_adam_reads_its_rates(size: int, offset: int, decoupled: bool) -> None:
    p, g, m, v = (random(size, seed=seed) for seed in range(4))
    v **= 2
    rates = np.array([0.1 / (1 - 0.9**3), (1 - 0.999**3) ** 0.5, 1 - 0.1 * 0.02])
    options: dict[str, Any] = {
        "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.02,
        "decoupled": decoupled, "maximize": not decoupled,
    }  # fmt: skip
    ours = on_device(p, offset=offset), *map(on_device, (g, m, v))
    device_rates = new(3, dtype=np.float64)
    device_rates[...] = rates
    GPU["adam_update"](*ours, device_rates, **options)
    CPU["adam_update"](p, g, m, v, rates, **options)
    for actual, value in zip((ours[0], *ours[2:]), (p, m, v)):
        assert_close(actual, value, 2e-6)
