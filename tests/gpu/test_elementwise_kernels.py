"""Elementwise kernels on the emulated device: short arrays, views off their alignment, copies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpucnn.backends.gpu import elementwise, nvrtc
from gpucnn.backends.gpu.emulated import EmulatedRuntime

pytestmark = pytest.mark.skipif(not nvrtc.compilers(), reason="NVRTC is not installed")


@pytest.fixture
def runtime() -> EmulatedRuntime:
    runtime = EmulatedRuntime()
    runtime.launches = []
    return runtime


def placed(runtime: EmulatedRuntime, values: np.ndarray[Any, Any], offset: int = 0) -> Any:
    """The values on the device, `offset` elements behind the alignment of an allocation."""
    memory = runtime.empty((values.size + offset,), values.dtype)
    array = memory[offset:].reshape(values.shape)
    array[...] = values
    return array


def widths(runtime: EmulatedRuntime) -> list[str]:
    assert runtime.launches is not None
    return [dict(launch.kernel.module.defines).get("WIDTH", "1") for launch in runtime.launches]


@pytest.mark.parametrize("shape", [(), (1,), (3,), (4,), (7,), (1, 3), (2, 300)])
def test_short_arrays_need_no_module_of_their_own(
    runtime: EmulatedRuntime, shape: tuple[int, ...]
) -> None:
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    x, y = placed(runtime, values), placed(runtime, np.zeros(shape, np.float32))
    elementwise.binary(runtime, x, 2.5, y, op="multiply")
    np.testing.assert_array_equal(y, values * np.float32(2.5))
    elementwise.full(runtime, y, value=3)
    np.testing.assert_array_equal(y, np.full(shape, 3))
    scalar = placed(runtime, np.array(0.5, np.float32))
    elementwise.binary(runtime, x, scalar, y, op="add")
    np.testing.assert_array_equal(y, values + np.float32(0.5))
    assert widths(runtime) == ["4"] * 3


@pytest.mark.parametrize(("count", "width"), [(3, "4"), (9, "1")])
def test_views_off_their_alignment(runtime: EmulatedRuntime, count: int, width: str) -> None:
    """Packs need whole 16 bytes; what is shorter than one is single elements anyway."""
    values = np.arange(count, dtype=np.float32)
    x, y = placed(runtime, values, 1), placed(runtime, values, 3)
    elementwise.unary(runtime, x, y, op="negative")
    np.testing.assert_array_equal(y, -values)
    assert widths(runtime) == [width]


@pytest.mark.parametrize("dtype", [np.int64, np.float64])
@pytest.mark.parametrize("shape", [(1,), (5,), (3, 7)])
def test_eight_bytes_are_copied_as_four(
    runtime: EmulatedRuntime, shape: tuple[int, ...], dtype: Any
) -> None:
    values = np.random.default_rng(0).integers(-(2**40), 2**40, shape).astype(dtype)
    y = placed(runtime, np.zeros(shape, dtype))
    elementwise.copy(runtime, placed(runtime, values), y)
    np.testing.assert_array_equal(y, values)
    elementwise.copy(runtime, placed(runtime, values)[..., ::-1], y)  # not dense
    np.testing.assert_array_equal(y, values[..., ::-1])
    assert runtime.launches is not None
    words = [dict(launch.kernel.module.defines)["word"] for launch in runtime.launches]
    assert words[0] == "unsigned int"


@pytest.mark.parametrize(
    ("given", "shape"), [((), (5,)), ((1,), (5,)), ((3, 1), (3, 4)), ((1, 4), (3, 4)), ((), ())]
)
@pytest.mark.parametrize("dtype", [np.int64, np.float64, np.float32, np.bool_])
def test_copies_broadcast(
    runtime: EmulatedRuntime, given: tuple[int, ...], shape: tuple[int, ...], dtype: Any
) -> None:
    values = np.random.default_rng(0).integers(-100, 100, given).astype(dtype)
    y = placed(runtime, np.zeros(shape, dtype))
    elementwise.copy(runtime, placed(runtime, values), y)
    np.testing.assert_array_equal(y, np.broadcast_to(values, shape))
