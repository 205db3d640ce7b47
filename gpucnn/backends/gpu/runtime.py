"""What runs the CUDA kernels: memory, launches, streams, and nothing else.

The primitives of this folder are written against `Runtime`. `cuda.py` is the one over CuPy. A
runtime never computes: every arithmetic on its arrays is a kernel of `kernels/`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt

from gpucnn.backends.gpu.kernel import Kernel

Array = Any
"""An array of a runtime: has shape, dtype, strides (bytes), ndim, size, itemsize, reshape,
transpose.
"""

MAX_GRID = (2**31 - 1, 65535, 65535)
MAX_BLOCK = (1024, 1024, 64)


@dataclass(frozen=True)
class DeviceProperties:
    """What the planners ask about a device; memory sizes in bytes."""

    name: str
    compute_capability: tuple[int, int]
    multiprocessors: int
    memory: int
    max_shared_per_block: int
    max_threads_per_multiprocessor: int
    l2_cache: int


@dataclass(frozen=True)
class MemoryInfo:
    """Bytes: `used` by arrays of this process, `free` on the device and in the pool, `total` of the
    device.
    """

    used: int
    free: int
    total: int


class LaunchError(RuntimeError):
    """A kernel did not compile, could not be launched, or failed on the device."""


class Graph(Protocol):
    """Launches that can run again, on the same memory.

    Attributes:
        launches: how many there are.
    """

    @property
    def launches(self) -> int: ...

    def __call__(self) -> None:
        """Run them on the current stream; returns before they have run."""


class Runtime(Protocol):
    """A device that holds arrays and launches kernels.

    `synchronous`: each launch is waited for, so that errors name their kernel.
    """

    name: str
    synchronous: bool

    def empty(
        self, shape: Sequence[int], dtype: npt.DTypeLike, order: Sequence[int] | None = None
    ) -> Array:
        """A new array, values undefined, dense in memory with its axes in `order` (slowest
        first).
        """
        ...

    def from_host(self, array: npt.NDArray[Any]) -> Array:
        """A copy of a NumPy array in the same memory order (C order if it is not dense)."""
        ...

    def write(self, array: Array, values: npt.NDArray[Any]) -> None:
        """Copy host values of the same shape and dtype into a dense array, behind the launches so
        far.
        """
        ...

    def to_host(self, array: Array) -> npt.NDArray[Any]:
        """A NumPy copy of a dense array, in the same memory order. Waits for the kernels that write
        it.
        """
        ...

    def as_strided(self, array: Array, shape: Sequence[int], strides: Sequence[int]) -> Array:
        """A view that starts at the first element of `array`; strides in bytes."""
        ...

    def adopt(self, value: Any) -> Array:
        """The array over the memory of a `__cuda_array_interface__` or DLPack object."""
        ...

    def address(self, array: Array) -> int:
        """Where the first element of `array` lies, for choices by alignment."""
        ...

    def owns(self, array: object) -> bool:
        """Whether `array` is an array of this runtime, on its device."""
        ...

    def launch(
        self,
        kernel: Kernel,
        grid: Sequence[int],
        block: Sequence[int],
        *arguments: Any,
        shared: int = 0,
    ) -> None:
        """Run `kernel` over `grid` blocks of `block` threads with `shared` bytes of dynamic shared
        memory.

        Returns before the kernel has run. A grid with a zero launches nothing.
        Raises what `Kernel.bind` and `launch_shape` raise.
        """
        ...

    def capture(self, run: Callable[[], None]) -> Graph:
        """Run `run`, which only launches kernels, and keep its launches with all their arguments.

        Raises LaunchError when the device cannot capture it.
        """
        ...

    def synchronize(self) -> None:
        """Wait until all launches are done."""
        ...

    def properties(self) -> DeviceProperties:
        """Name, size and limits of the device."""
        ...

    def memory_info(self) -> MemoryInfo:
        """Memory in use and left."""
        ...

    def record_event(self) -> object:
        """A mark behind the launches so far, for `elapsed_ms`."""
        ...

    def elapsed_ms(self, start: object, end: object) -> float:
        """Milliseconds between two marks; waits for the second."""
        ...


Dimensions = tuple[int, int, int]


def launch_shape(
    kernel: Kernel, grid: Sequence[int], block: Sequence[int]
) -> tuple[Dimensions, Dimensions] | None:
    """Grid and block with three dimensions each, or None when there is nothing to launch.

    CuPy turns a zero in a grid into a one: the kernel would run. Raises ValueError, naming the
    kernel, when a dimension is beyond what the hardware takes or the block is larger than the
    kernel's `__launch_bounds__`.
    """
    blocks, threads = _dimensions(kernel, "grid", grid), _dimensions(kernel, "block", block)
    size = threads[0] * threads[1] * threads[2]
    if not 1 <= size <= kernel.launch_bounds:
        raise ValueError(
            f"{kernel.entry}: block {tuple(block)} has {size} threads, "
            f"its __launch_bounds__ are {kernel.launch_bounds}"
        )
    return None if 0 in blocks else (blocks, threads)


def _dimensions(kernel: Kernel, name: str, sizes: Sequence[int]) -> Dimensions:
    limits = MAX_GRID if name == "grid" else MAX_BLOCK
    x, y, z = (*sizes, 1, 1)[:3]
    if (
        not 1 <= len(sizes) <= 3
        or min(x, y, z) < 0
        or x > limits[0]
        or y > limits[1]
        or z > limits[2]
    ):
        raise ValueError(f"{kernel.entry}: {name} {tuple(sizes)} is outside 0 to {limits}")
    return int(x), int(y), int(z)
