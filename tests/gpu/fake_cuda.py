"""The CuPy runtime without a driver: real cupy.ndarray objects over host memory, launches recorded.

Every plan, check and argument of a launch is made as on a GPU; only the kernel does not run.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gpucnn import backends
from gpucnn.backends.gpu import GpuBackend
from gpucnn.backends.gpu.cuda import CudaRuntime
from gpucnn.backends.gpu.kernel import Kernel, Module
from gpucnn.backends.gpu.layout import axis_order, is_dense
from gpucnn.backends.gpu.runtime import DeviceProperties, MemoryInfo
from gpucnn.cases import CASES, run
from gpucnn.core.device import Device


class Launch(NamedTuple):
    """What would have reached the driver."""

    kernel: Kernel
    grid: tuple[int, ...]
    block: tuple[int, ...]
    arguments: tuple[Any, ...]
    shared: int


class FakeCuda(CudaRuntime):
    """`CudaRuntime` whose memory is the host's and whose launches are kept in `launches`."""

    def __init__(self, index: int = 0) -> None:
        import cupy

        self._setup(cupy, index)
        self.launches: list[Launch] = []

    def _device(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def _allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        memory = np.full(size + 256, 0xFF, np.uint8)
        start = -memory.ctypes.data % 256  # the alignment of CuPy's memory pool
        owned = self._cupy.cuda.UnownedMemory(
            memory.ctypes.data, memory.nbytes, memory, device_id=self.index
        )
        pointer = self._cupy.cuda.MemoryPointer(owned, start)
        return self._cupy.ndarray(shape, dtype, pointer)

    def from_host(self, array: npt.NDArray[Any]) -> Any:
        dense = is_dense(array.shape, array.strides, array.itemsize)
        order = axis_order(array.shape, array.strides) if dense else None
        result = self.empty(array.shape, array.dtype, order)
        host_view(result)[...] = array
        return result

    def to_host(self, array: Any) -> npt.NDArray[Any]:
        assert is_dense(array.shape, array.strides, array.itemsize)
        return host_view(array).copy(order="K")

    def _function(self, kernel: Kernel, shared: int) -> Callable[..., None]:
        def record(
            grid: Sequence[int], block: Sequence[int], arguments: Any, *, shared_mem: int
        ) -> None:
            self.launches.append(Launch(kernel, tuple(grid), tuple(block), arguments, shared_mem))

        return record

    def synchronize(self) -> None:
        return None

    def properties(self) -> DeviceProperties:
        return DeviceProperties("a device of host memory", (8, 0), 108, 2**35, 166912, 2048, 2**25)

    def memory_info(self) -> MemoryInfo:
        return MemoryInfo(0, 2**35, 2**35)


def host_view(array: Any) -> npt.NDArray[Any]:
    """The NumPy array over the same memory (the array must be dense)."""
    raw = (ctypes.c_uint8 * array.nbytes).from_address(array.data.ptr) if array.nbytes else bytearray()
    return np.ndarray(array.shape, array.dtype, raw, 0, array.strides)


@cache
def launches_of_the_cases() -> tuple[Launch, ...]:
    """All launches of the table of cases, forward and backward, in float32 and float64."""
    runtime = FakeCuda()
    device = Device("cuda:0")
    before = backends._backends.get(device)
    backends.register(device, GpuBackend(runtime))
    try:
        for case in CASES:
            for dtype in (np.float32, np.float64):
                run(case, str(device), dtype)
    finally:
        del backends._backends[device]
        if before is not None:
            backends.register(device, before)
    return tuple(runtime.launches)


def specialisations() -> dict[Module, set[str]]:
    """Every module that the table of cases asks for, with the entries it launches."""
    found: dict[Module, set[str]] = {}
    for launch in launches_of_the_cases():
        found.setdefault(launch.kernel.module, set()).add(launch.kernel.entry)
    return found
