"""Runtimes over host memory, for machines without a GPU: arrays are NumPy's.

`RecordingRuntime` plans and checks every launch as on a GPU and keeps it instead of running it: it
tells which kernels a computation needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gpucnn import backends
from gpucnn.backends.gpu.kernel import Kernel
from gpucnn.backends.gpu.layout import axis_order, is_dense
from gpucnn.backends.gpu.runtime import Array, DeviceProperties, MemoryInfo, launch_shape

ALIGNMENT = 256
"""Bytes: where arrays begin, as in CuPy's memory pool."""

A100 = DeviceProperties("A100", (8, 0), 108, 40 * 2**30, 166912, 2048, 40 * 2**20)


class HostRuntime:
    """What runtimes over host memory share (see `runtime.Runtime` for the methods)."""

    name = "emulated"
    synchronous = False

    def empty(
        self, shape: Sequence[int], dtype: npt.DTypeLike, order: Sequence[int] | None = None
    ) -> Array:
        axes = tuple(range(len(shape)) if order is None else order)
        kind = np.dtype(dtype)
        memory = tuple(int(shape[axis]) for axis in axes)
        size = int(np.prod(memory, dtype=np.int64)) * kind.itemsize
        raw = self._allocate(size)
        array = raw[:size].view(kind).reshape(memory)
        return array.transpose(tuple(np.argsort(axes))) if axes else array

    def _allocate(self, size: int) -> npt.NDArray[np.uint8]:
        """At least `size` aligned bytes whose values nobody should read before writing them."""
        raw = np.full(size + ALIGNMENT, 0xFF, np.uint8)
        start = -raw.ctypes.data % ALIGNMENT
        return raw[start : start + size]

    def from_host(self, array: npt.NDArray[Any]) -> Array:
        dense = is_dense(array.shape, array.strides, array.itemsize)
        order = axis_order(array.shape, array.strides) if dense else None
        result = self.empty(array.shape, array.dtype, order)
        result[...] = array
        return result

    def to_host(self, array: Array) -> npt.NDArray[Any]:
        return np.array(array, copy=True, order="K")

    def as_strided(self, array: Array, shape: Sequence[int], strides: Sequence[int]) -> Array:
        return np.lib.stride_tricks.as_strided(array, tuple(shape), tuple(strides))

    def adopt(self, value: Any) -> Array:
        return np.from_dlpack(value)

    def address(self, array: Array) -> int:
        return int(array.__array_interface__["data"][0])

    def owns(self, array: object) -> bool:
        return isinstance(array, np.ndarray)

    def synchronize(self) -> None:
        return None

    def properties(self) -> DeviceProperties:
        return A100

    def memory_info(self) -> MemoryInfo:
        return MemoryInfo(0, A100.memory, A100.memory)

    def record_event(self) -> object:
        raise RuntimeError("emulated: there are no times to measure on an emulated device")

    def elapsed_ms(self, start: object, end: object) -> float:
        raise RuntimeError("emulated: there are no times to measure on an emulated device")


class Launch(NamedTuple):
    """What would have reached the driver."""

    kernel: Kernel
    grid: tuple[int, ...]
    block: tuple[int, ...]
    arguments: tuple[Any, ...]
    shared: int


class RecordingRuntime(HostRuntime):
    """Keeps launches in `launches` and runs none; the values of its arrays mean nothing."""

    def __init__(self) -> None:
        self.launches: list[Launch] = []

    def launch(
        self,
        kernel: Kernel,
        grid: Sequence[int],
        block: Sequence[int],
        *arguments: Any,
        shared: int = 0,
    ) -> None:
        bound = kernel.bind(arguments, self.owns)
        shape = launch_shape(kernel, grid, block)
        if shape is not None:
            self.launches.append(Launch(kernel, *shape, bound, shared))


@contextmanager
def recording() -> Iterator[RecordingRuntime]:
    """Within it the device `emulated` records what it would launch."""
    from gpucnn.backends.gpu import GpuBackend
    from gpucnn.core.device import Device

    runtime = RecordingRuntime()
    with backends.serving(Device("emulated"), GpuBackend(runtime)):
        yield runtime
