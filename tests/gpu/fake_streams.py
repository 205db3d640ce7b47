"""CUDA's rules of stream capture over `FakeCuda`: what a driver would refuse is an error here.

The rules are those of the CUDA C++ Programming Guide, "Creating a Graph Using Stream Capture":
only a stream other than the legacy default one captures; while it does, no memory is allocated by
the driver, nothing is waited for, and work of the capturing thread goes to the capturing stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
from fake_cuda import FakeCuda

from gpucnn.backends.gpu.cuda import CudaRuntime
from gpucnn.backends.gpu.host import Launch
from gpucnn.backends.gpu.kernel import Kernel


class CaptureError(RuntimeError):
    """What a driver would answer with cudaErrorStreamCapture..."""


class Event:
    def __init__(self, stream: Stream) -> None:
        self.stream = stream


class Stream:
    def __init__(self, driver: Driver, non_blocking: bool = False, default: bool = False) -> None:
        self.driver, self.non_blocking, self.default = driver, non_blocking, default
        self.captured: list[Launch] | None = None
        self.waited: list[Stream] = []

    def record(self) -> Event:
        return Event(self)

    def wait_event(self, event: Event) -> None:
        if self.captured is not None and event.stream is not self:
            raise CaptureError("a capturing stream waits for work outside the graph")
        self.waited.append(event.stream)

    def synchronize(self) -> None:
        self.driver.outside_capture("synchronize")

    def begin_capture(self) -> None:
        if self.default or not self.non_blocking:
            raise CaptureError("a stream that waits for the legacy default one cannot capture")
        if self.captured is not None:
            raise CaptureError("the stream captures already")
        self.captured = []

    def end_capture(self) -> Graph:
        if self.captured is None:
            raise CaptureError("the stream does not capture")
        launches, self.captured = self.captured, None
        return Graph(self.driver, launches)

    def __enter__(self) -> Stream:
        self.driver.streams.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.driver.streams.pop()


class Graph:
    def __init__(self, driver: Driver, launches: list[Launch]) -> None:
        self.driver, self.launches = driver, launches
        self.uploaded = False

    def upload(self) -> None:
        self.uploaded = True

    def launch(self) -> None:
        self.driver.outside_capture("launch a graph")
        self.driver.runtime.launches.extend(self.launches)


class MemoryPool:
    """Blocks by size; a freed block is used again, a new one comes from the driver."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.free: dict[int, list[Any]] = {}
        self.from_driver = 0

    def malloc(self, size: int) -> Any:
        blocks = self.free.setdefault(size, [])
        if not blocks:
            self.driver.outside_capture("allocate memory")
            self.from_driver += 1
            blocks.append(np.full(size + 256, 0xFF, np.uint8))
        return _Lent(self, size, blocks.pop())


class _Lent:
    """A block in use, which goes back to its pool with its last reference."""

    def __init__(self, pool: MemoryPool, size: int, memory: Any) -> None:
        self.pool, self.size, self.memory = pool, size, memory

    def __del__(self) -> None:
        self.pool.free[self.size].append(self.memory)


class Driver:
    """The part of `cupy` that `cuda_graph.capture` uses, and who captures."""

    def __init__(self, runtime: CapturingCuda) -> None:
        self.runtime = runtime
        self.streams = [Stream(self, default=True)]
        self.pools = [MemoryPool(self)]
        self.cuda = SimpleNamespace(
            get_current_stream=lambda: self.streams[-1],
            Stream=lambda non_blocking=False: Stream(self, non_blocking),
            MemoryPool=lambda: MemoryPool(self),
            using_allocator=self.using_allocator,
        )

    def outside_capture(self, what: str) -> None:
        if any(stream.captured is not None for stream in self.streams):
            raise CaptureError(f"a capturing stream cannot {what}")

    @contextmanager
    def using_allocator(self, malloc: Callable[[int], Any]) -> Iterator[None]:
        self.pools.append(malloc.__self__)  # type: ignore[attr-defined]
        try:
            yield
        finally:
            self.pools.pop()


class CapturingCuda(FakeCuda):
    """`FakeCuda` whose launches, memory and waiting obey the rules of capture."""

    def __init__(self) -> None:
        super().__init__()
        self.driver = Driver(self)
        self._real = self._cupy

    def capture(self, run: Callable[[], None]) -> Any:
        self._cupy, real = self.driver, self._cupy
        try:
            return CudaRuntime.capture(self, self._with_real_cupy(run, real))
        finally:
            self._cupy = real

    def _with_real_cupy(self, run: Callable[[], None], real: Any) -> Callable[[], None]:
        def inner() -> None:
            self._cupy, fake = real, self._cupy
            try:
                run()
            finally:
                self._cupy = fake

        return inner

    def _allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        lent = self.driver.pools[-1].malloc(size)
        start = -lent.memory.ctypes.data % 256
        owned = self._real.cuda.UnownedMemory(
            lent.memory.ctypes.data, lent.memory.nbytes, lent, device_id=self.index
        )
        return self._real.ndarray(shape, dtype, self._real.cuda.MemoryPointer(owned, start))

    def _function(self, kernel: Kernel, shared: int) -> Callable[..., None]:
        def record(
            grid: Sequence[int], block: Sequence[int], arguments: Any, *, shared_mem: int
        ) -> None:
            # Without the arguments: like a driver it keeps no array alive.
            launch = Launch(kernel, tuple(grid), tuple(block), (), shared_mem)
            captured = self.driver.streams[-1].captured
            (self.launches if captured is None else captured).append(launch)

        return record

    def from_host(self, array: Any) -> Any:
        self.driver.outside_capture("copy from the host")
        return super().from_host(array)

    def write(self, array: Any, values: Any) -> None:
        self.driver.outside_capture("copy from the host")

    def to_host(self, array: Any) -> Any:
        self.driver.outside_capture("copy to the host")
        return super().to_host(array)

    def synchronize(self) -> None:
        self.driver.outside_capture("synchronize")
