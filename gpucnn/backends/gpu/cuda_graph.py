"""CUDA graphs through CuPy's stream capture. The module `cupy` is handed in by `cuda.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class CudaGraph:
    """Captured launches as one graph; it holds the memory pool of its workspaces.

    Attributes:
        launches: how many kernels the graph starts.
    """

    def __init__(self, graph: Any, pool: Any, launches: int) -> None:
        self._graph = graph
        self._pool = pool
        self.launches = launches

    def __call__(self) -> None:
        self._graph.launch()


def capture(cupy: Any, run: Callable[[], None], count: Callable[[], int]) -> CudaGraph:
    """Run `run` once, and capture it as a graph.

    The run loads the modules, and lets a private pool of memory get the blocks of the workspaces;
    while the stream captures, the same requests are answered from there, because a driver must not
    allocate then. Streams that capture must not be the legacy default stream.

    Args:
        run: launches kernels on the current stream, the same ones each time.
        count: the number of launches so far.
    """
    outside = cupy.cuda.get_current_stream()
    stream = cupy.cuda.Stream(non_blocking=True)
    pool = cupy.cuda.MemoryPool()
    # A non-blocking stream does not wait for the default stream by itself.
    stream.wait_event(outside.record())
    with cupy.cuda.using_allocator(pool.malloc), stream:
        run()
        before = count()
        stream.begin_capture()
        try:
            run()
        finally:
            graph = stream.end_capture()
    outside.wait_event(stream.record())
    graph.upload()
    return CudaGraph(graph, pool, count() - before)


class PlainReplay:
    """Launches made again one by one, where they must be waited for (`GPUCNN_SYNC=1`)."""

    def __init__(self, run: Callable[[], None], launches: int) -> None:
        self._run = run
        self.launches = launches

    def __call__(self) -> None:
        self._run()
