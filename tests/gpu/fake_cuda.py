"""The CuPy runtime without a driver: real cupy.ndarray objects over host memory, launches recorded.

Every plan, check and argument of a launch is made as on a GPU; only the kernel does not run.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from gpucnn import backends
from gpucnn.backends.gpu import GpuBackend
from gpucnn.backends.gpu.cuda import CudaRuntime
from gpucnn.backends.gpu.cuda_graph import PlainReplay
from gpucnn.backends.gpu.host import A100, Launch
from gpucnn.backends.gpu.kernel import Kernel
from gpucnn.backends.gpu.layout import axis_order, is_dense
from gpucnn.backends.gpu.runtime import DeviceProperties, MemoryInfo
from gpucnn.cases import CASES, run
from gpucnn.core.device import Device


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

    def capture(self, run: Callable[[], None]) -> Any:
        """Launches made one by one: streams need a driver (`fake_streams` has its rules)."""
        before = self._launches
        run()
        return PlainReplay(run, self._launches - before)

    def synchronize(self) -> None:
        return None

    def properties(self) -> DeviceProperties:
        return A100

    def memory_info(self) -> MemoryInfo:
        return MemoryInfo(0, A100.memory, A100.memory)


def host_view(array: Any) -> npt.NDArray[Any]:
    """The NumPy array over the same memory (the array must be dense)."""
    raw = (
        (ctypes.c_uint8 * array.nbytes).from_address(array.data.ptr)
        if array.nbytes
        else bytearray()
    )
    return np.ndarray(array.shape, array.dtype, raw, 0, array.strides)


@cache
def launches_of_the_cases() -> tuple[Launch, ...]:
    """All launches of the table of cases, forward and backward, in float32 and float64."""
    runtime = FakeCuda()
    device = Device("cuda:0")
    with backends.serving(device, GpuBackend(runtime)):
        for case in CASES:
            for dtype in (np.float32, np.float64):
                run(case, str(device), dtype)
    return tuple(runtime.launches)
