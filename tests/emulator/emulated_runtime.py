"""The GPU family of primitives on the emulator, as far as the emulator's own tests need it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from gpucnn.backends.gpu import nvrtc
from gpucnn.backends.gpu.kernel import Kernel, Module
from gpucnn.backends.gpu.layout import axis_order, is_dense
from gpucnn.backends.gpu.runtime import DeviceProperties, MemoryInfo, launch_shape
from gpucnn.emulator import LOWEST_FIRST, Memory, Report, Schedule
from gpucnn.emulator import Module as Emulated

MEMORY = Memory()


@cache
def compiled(major: int, module: Module) -> Emulated:
    """The module as NVRTC of CUDA `major` makes it."""
    code = nvrtc.compilers()[major].compile(module.source, module.file, "compute_80", ["-lineinfo"])
    return Emulated(code.code, MEMORY)


class EmulatedRuntime:
    """`gpucnn.backends.gpu.runtime.Runtime` over the emulator; keeps each launch's report."""

    name = "emulated"
    synchronous = True

    def __init__(self, major: int, schedule: Schedule = LOWEST_FIRST) -> None:
        self.major, self.schedule = major, schedule
        self.counting = False
        self.reports: list[tuple[Kernel, Report]] = []

    def empty(
        self, shape: Sequence[int], dtype: npt.DTypeLike, order: Sequence[int] | None = None
    ) -> npt.NDArray[Any]:
        axes = tuple(range(len(shape)) if order is None else order)
        memory = tuple(int(shape[axis]) for axis in axes)
        size = int(np.prod(memory, dtype=np.int64)) * np.dtype(dtype).itemsize
        array = MEMORY.empty(size).view(dtype).reshape(memory)
        return array.transpose(tuple(np.argsort(axes))) if axes else array

    def from_host(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        dense = is_dense(array.shape, array.strides, array.itemsize)
        order = axis_order(array.shape, array.strides) if dense else None
        result = self.empty(array.shape, array.dtype, order)
        result[...] = array
        return result

    def to_host(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return array.copy(order="K")

    def as_strided(self, array: Any, shape: Sequence[int], strides: Sequence[int]) -> Any:
        return np.lib.stride_tricks.as_strided(array, shape, strides)

    def adopt(self, value: Any) -> Any:
        raise TypeError("not here")

    def address(self, array: npt.NDArray[Any]) -> int:
        return MEMORY.register(array)

    def owns(self, array: object) -> bool:
        return isinstance(array, np.ndarray)

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
        if shape is None:
            return
        values = [
            self.address(value) if parameter.pointer and value is not None else value
            for parameter, value in zip(kernel.signature, bound, strict=True)
        ]
        module = compiled(self.major, kernel.module)
        report = module.launch(
            kernel.entry, *shape, values, shared, schedule=self.schedule, counters=self.counting
        )
        self.reports.append((kernel, report))

    def synchronize(self) -> None:
        return None

    def properties(self) -> DeviceProperties:
        return DeviceProperties("emulated", (8, 0), 108, 2**35, 166912, 2048, 2**25)

    def memory_info(self) -> MemoryInfo:
        return MemoryInfo(0, 2**35, 2**35)

    def record_event(self) -> object:
        return None

    def elapsed_ms(self, start: object, end: object) -> float:
        return 0.0
