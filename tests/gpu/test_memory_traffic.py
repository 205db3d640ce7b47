"""What the kernels that memory bounds move, counted on the emulated device, against what they must.

A row is a primitive and the bytes that it cannot do without: each operand once in each pass over
it. Sectors that a warp touches count in full, as often as it touches them: no cache helps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from gpucnn.backends.gpu import (
    augment,
    dropout,
    elementwise,
    loss,
    norm,
    nvrtc,
    optimize,
    softmax,
)

if not nvrtc.compilers():
    pytest.skip("no NVRTC to make PTX", allow_module_level=True)

from gpucnn import emulator  # noqa: E402
from gpucnn.backends.gpu.emulated import EmulatedRuntime  # noqa: E402

LAST = (0, 2, 3, 1)
MOST = 1.05
"""Bytes moved over bytes needed."""
COUNT = 400_003
IMAGES = (16, 64, 32, 32)
SMALL = (128, 512, 4, 4)
FLOAT = 4


class Device:
    """Arrays of random numbers on an emulated device that counts, and checks nothing else."""

    def __init__(self) -> None:
        self.runtime = EmulatedRuntime(checks=emulator.NONE, counters=True)
        self.runtime.launches = []
        self.rng = np.random.default_rng(1)

    def __call__(self, *shape: int, order: Any = None, dtype: Any = np.float32) -> Any:
        array = self.runtime.empty(shape, dtype, order)
        if np.dtype(dtype).kind == "f":
            array[...] = self.rng.standard_normal(shape)
        else:
            array[...] = self.rng.integers(0, 2, shape)
        return array


@dataclass(frozen=True)
class Row:
    """`run(device)` calls a primitive of the emulated device; `needed` are bytes.

    `launches`: that it makes; `conflicts`: passes over the banks of shared memory beyond the
    fewest, as a share of them.
    """

    name: str
    needed: int
    run: Callable[[Device], None]
    launches: int = 1
    conflicts: float = 0.0


def _unary(d: Device) -> None:
    elementwise.unary(d.runtime, d(COUNT), d(COUNT), op="relu")


def _binary(d: Device) -> None:
    elementwise.binary(d.runtime, d(COUNT), d(COUNT), d(COUNT), op="relu_backward")


def _compare(d: Device) -> None:
    elementwise.binary(d.runtime, d(COUNT), 0.5, d(COUNT, dtype=np.bool_), op="less")


def _where(d: Device) -> None:
    elementwise.where(d.runtime, d(COUNT, dtype=np.bool_), d(COUNT), 0, d(COUNT))


def _fill(d: Device) -> None:
    elementwise.full(d.runtime, d(COUNT), value=2)


def _cast(d: Device) -> None:
    elementwise.copy(d.runtime, d(COUNT, dtype=np.uint8), d(COUNT))


def _copy(
    shape: tuple[int, ...], source: Any, target: Any, dtype: Any = np.float32
) -> Callable[[Device], None]:
    def run(d: Device) -> None:
        x, y = d(*shape, order=source, dtype=dtype), d(*shape, order=target, dtype=dtype)
        elementwise.copy(d.runtime, x, y)

    return run


def _dropout(shape: tuple[int, ...], order: Any) -> Callable[[Device], None]:
    def run(d: Device) -> None:
        key = d(2, dtype=np.int64)
        dropout.dropout(d.runtime, d(*shape, order=order), key, d(*shape, order=order), p=0.5)

    return run


def _sgd(momentum: float) -> Callable[[Device], None]:
    def run(d: Device) -> None:
        optimize.sgd_update(
            d.runtime, d(COUNT), d(COUNT), d(COUNT), d(1, dtype=np.float64),
            momentum=momentum, dampening=0.0, weight_decay=0.01, nesterov=momentum > 0,
            maximize=False, first=False,
        )  # fmt: skip

    return run


def _adam(d: Device) -> None:
    optimize.adam_update(
        d.runtime, *(d(COUNT) for _ in range(4)), d(3, dtype=np.float64),
        beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01, decoupled=True, maximize=False,
    )  # fmt: skip


def _statistics(shape: tuple[int, ...]) -> Callable[[Device], None]:
    def run(d: Device) -> None:
        c = shape[1]
        norm.batch_norm_statistics(
            d.runtime, d(*shape, order=LAST), d(c), d(c), d(c), d(c), momentum=0.1
        )

    return run


def _norm(shape: tuple[int, ...], addend: bool) -> Callable[[Device], None]:
    def run(d: Device) -> None:
        c = shape[1]
        x, y, extra = (d(*shape, order=LAST) for _ in range(3))
        norm.batch_norm(
            d.runtime, x, d(c), d(c), d(c), d(c), extra if addend else None, y, eps=1.0, relu=True
        )

    return run


def _norm_backward(shape: tuple[int, ...], masked: bool, addend: bool) -> Callable[[Device], None]:
    def run(d: Device) -> None:
        c = shape[1]
        dy, x, y, dx, more = (d(*shape, order=LAST) for _ in range(5))
        norm.batch_norm_backward(
            d.runtime, dy, x, d(c), d(c), d(c), y if masked else None, dx, d(c), d(c),
            more if addend else None, eps=1.0, training=True,
        )  # fmt: skip

    return run


def _loss(rows: int, classes: int) -> Callable[[Device], None]:
    def run(d: Device) -> None:
        loss.cross_entropy_with_gradient(
            d.runtime, d(rows, classes), d(rows, dtype=np.int64), None, d(), d(rows, classes),
            ignore_index=-100, label_smoothing=0.0, reduction="mean",
        )  # fmt: skip

    return run


def _softmax(rows: int, length: int) -> Callable[[Device], None]:
    def run(d: Device) -> None:
        softmax.softmax(d.runtime, d(rows, length), d(rows, length), axis=1, log=False)

    return run


def _softmax_backward(rows: int, length: int) -> Callable[[Device], None]:
    def run(d: Device) -> None:
        dy, y, dx = (d(rows, length) for _ in range(3))
        softmax.softmax_backward(d.runtime, dy, y, dx, axis=1, log=True)

    return run


def _images(shape: tuple[int, int, int, int]) -> Callable[[Device], None]:
    def run(d: Device) -> None:
        n, c, h, w = shape
        x, places = d(*shape, dtype=np.uint8), d(n, 3, dtype=np.int32)
        y = d(*shape, order=LAST)
        augment.prepare_images(d.runtime, x, places, d(c), d(c), y, height=h, width=w)

    return run


def _of(shape: tuple[int, ...], arrays: float) -> int:
    """Bytes of this many float arrays."""
    return int(FLOAT * np.prod(shape) * arrays)


ROWS = [
    Row("relu", 2 * FLOAT * COUNT, _unary),
    Row("relu_backward", 3 * FLOAT * COUNT, _binary),
    Row("less", (FLOAT + 1) * COUNT, _compare),
    Row("where", (2 * FLOAT + 1) * COUNT, _where),
    Row("full", FLOAT * COUNT, _fill),
    Row("cast", (FLOAT + 1) * COUNT, _cast),
    Row("copy", 2 * COUNT, _copy((COUNT,), None, None, np.uint8)),
    Row("copy to channels-last", _of(IMAGES, 2), _copy(IMAGES, None, LAST)),
    Row("copy from channels-last", _of(IMAGES, 2), _copy(IMAGES, LAST, None)),
    Row("copy of 3 channels to channels-last", _of((64, 3, 32, 32), 2),
        _copy((64, 3, 32, 32), None, LAST)),
    Row("copy of 3 channels from channels-last", _of((64, 3, 32, 32), 2),
        _copy((64, 3, 32, 32), LAST, None)),
    Row("copy of 8 channels of double", 2 * _of((32, 8, 16, 16), 2),
        _copy((32, 8, 16, 16), None, LAST, np.float64), conflicts=1.0),
    Row("dropout", 2 * FLOAT * COUNT, _dropout((COUNT,), None)),
    Row("dropout channels-last", _of(IMAGES, 2), _dropout(IMAGES, LAST)),
    Row("sgd", 3 * FLOAT * COUNT, _sgd(0.0)),
    Row("sgd with momentum", 5 * FLOAT * COUNT, _sgd(0.9)),
    Row("adamw", 7 * FLOAT * COUNT, _adam),
    *(Row(f"batch norm {what} of {shape}", _of(shape, arrays), run(shape), launches)
      for shape in (IMAGES, SMALL)
      for what, arrays, run, launches in (
          ("statistics", 1, _statistics, 2),
          ("forward", 2, lambda s: _norm(s, False), 1),
          ("forward with addend", 3, lambda s: _norm(s, True), 1),
          ("backward", 2 + 3, lambda s: _norm_backward(s, False, False), 2),
          ("backward behind relu", 3 + 4, lambda s: _norm_backward(s, True, False), 2),
          ("backward with addend", 4 + 3, lambda s: _norm_backward(s, True, True), 2),
      )),
    Row("cross entropy", _of((128, 1000), 2) + 8 * 128, _loss(128, 1000)),
    Row("cross entropy of several blocks", _of((140, 1000), 2) + 16 * 140, _loss(140, 1000), 3),
    Row("softmax", _of((300, 1000), 2), _softmax(300, 1000)),
    Row("softmax backward", _of((300, 1000), 3), _softmax_backward(300, 1000)),
    Row("softmax of few classes", _of((4000, 16), 2), _softmax(4000, 16)),
    Row("images of cifar10", _of((128, 3, 32, 32), 1.25), _images((128, 3, 32, 32)), 1, 1.0),
    Row("images of mnist", _of((128, 1, 28, 28), 1.25), _images((128, 1, 28, 28)), 1, 1.0),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_bytes_and_sectors(row: Row) -> None:
    device = Device()
    row.run(device)
    launches = device.runtime.launches
    assert launches is not None and len(launches) == row.launches
    counts = [launch.report.counters for launch in launches]
    moved = sum(c.bytes_read + c.bytes_written for c in counts)
    assert moved <= MOST * row.needed, f"{moved / row.needed:.3f} times the bytes"
    assert [c.store_sectors for c in counts] == [c.store_sectors_ideal for c in counts]
    for verb in ("load", "store"):
        passes = sum(getattr(c, f"shared_{verb}_wavefronts") for c in counts)
        fewest = sum(getattr(c, f"shared_{verb}_wavefronts_ideal") for c in counts)
        assert passes <= (1 + row.conflicts) * fewest, f"{verb}: {passes} passes, not {fewest}"
