"""A GPU for `gpucnn bench` to run on where there is none: for gpucnn, and for PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

from fake_cuda import FakeCuda
from fake_streams import CapturingCuda


class _Timed:
    """Events, each a millisecond after the one before it.

    `log` has the events, the waiting for them, and how often memory was given back.
    """

    now = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.log: list[str] = []

    def record_event(self) -> float:
        self.log.append("event")
        self.now += 1.0
        return self.now

    def elapsed_ms(self, start: Any, end: Any) -> float:
        self.log.append("elapsed")
        return float(end - start)

    def give_memory_back(self) -> None:
        self.log.append("given back")


class TimedCuda(_Timed, CapturingCuda):
    """Captures, and keeps no arguments."""


class TimedLaunches(_Timed, FakeCuda):
    """Keeps each launch with its arguments."""


class _Stream:
    def wait_stream(self, other: Any) -> None:
        pass


class _Graph:
    """What a captured step did, it did once: a replay leaves its arrays as they are."""

    replays = 0

    def replay(self) -> None:
        self.replays += 1


class TorchWithGpu(ModuleType):
    """PyTorch on the cpu, which says that it were on a GPU; it calls the same functions.

    `graphs` and `compiled` have what was captured and compiled.
    """

    def __init__(self, real: Any) -> None:
        super().__init__("torch")
        self.real = real
        self.graphs: list[_Graph] = []
        self.compiled: list[dict[str, Any]] = []
        self.emptied = 0
        self.version = SimpleNamespace(cuda="99.9")
        self._dynamo = SimpleNamespace(reset=lambda: None)
        self.cuda = SimpleNamespace(
            is_available=lambda: True,
            get_device_name=lambda device: "a pretended GPU",
            empty_cache=self._empty,
            Stream=_Stream,
            stream=self._within,
            current_stream=_Stream,
            CUDAGraph=self._graph,
            graph=self._within,
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def device(self, name: str) -> Any:
        return self.real.device("cpu")

    def autocast(self, device_type: str, dtype: Any) -> Any:
        assert device_type == "cuda"
        return self.real.autocast("cpu", dtype=dtype)

    def compile(self, model: Any, **options: Any) -> Any:
        self.compiled.append(options)
        return model

    def _empty(self) -> None:
        self.emptied += 1

    def _graph(self) -> _Graph:
        self.graphs.append(_Graph())
        return self.graphs[-1]

    @contextmanager
    def _within(self, what: Any) -> Iterator[None]:
        yield
