"""Runtimes over host memory, for machines without a GPU: arrays are NumPy's.

`RecordingRuntime` plans and checks every launch as on a GPU and keeps it instead of running it: it
tells which kernels a computation needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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


class HostGraph:
    """Launches kept on the host: each again, with the same arguments."""

    def __init__(self, launches: Sequence[Callable[[], object]]) -> None:
        self._launches = launches
        self.launches = len(launches)

    def __call__(self) -> None:
        for launch in self._launches:
            launch()


class HostRuntime:
    """What runtimes over host memory share (see `runtime.Runtime` for the methods)."""

    name = "emulated"
    synchronous = False
    _captured: list[Callable[[], object]] | None = None

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

    def write(self, array: Array, values: npt.NDArray[Any]) -> None:
        array[...] = values

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

    def capture(self, run: Callable[[], None]) -> HostGraph:
        captured: list[Callable[[], object]] = []
        self._captured = captured
        try:
            run()
        finally:
            self._captured = None
        return HostGraph(captured)

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
    """Keeps launches in `launches` and runs none; the values of its arrays mean nothing.

    Args:
        properties: of the device that is planned for.
    """

    def __init__(self, properties: DeviceProperties = A100) -> None:
        self.launches: list[Launch] = []
        self._properties = properties

    def properties(self) -> DeviceProperties:
        return self._properties

    def _allocate(self, size: int) -> npt.NDArray[np.uint8]:
        # Nothing is written: pages that nobody touches cost nothing, however large the net.
        raw = np.empty(size + ALIGNMENT, np.uint8)
        start = -raw.ctypes.data % ALIGNMENT
        return raw[start : start + size]

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
            launch = Launch(kernel, *shape, bound, shared)
            self.launches.append(launch)
            if self._captured is not None:
                self._captured.append(lambda: self.launches.append(launch))


@contextmanager
def recording(properties: DeviceProperties = A100) -> Iterator[RecordingRuntime]:
    """Within it the device `emulated` records what a device of these properties would launch."""
    from gpucnn.backends.gpu import GpuBackend
    from gpucnn.core.device import Device

    runtime = RecordingRuntime(properties)
    with backends.serving(Device("emulated"), GpuBackend(runtime)):
        yield runtime
