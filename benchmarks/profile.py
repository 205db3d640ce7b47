"""Where the time of a step goes: every primitive of a device, timed where it is called."""

from __future__ import annotations

import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from gpucnn import backends
from gpucnn.benchmarks.columns import duration
from gpucnn.benchmarks.row import Call, Row
from gpucnn.core.device import Device

Primitive = Callable[..., None]

_MOST_LINES = 24


class Profile:
    """Calls and seconds, step by step, by primitive and the shapes of its first two arrays."""

    def __init__(self) -> None:
        self._calls: Counter[str] = Counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._steps: list[tuple[float, defaultdict[str, float]]] = []

    def _timed(self, name: str, primitive: Primitive, wait: Callable[[], None]) -> Primitive:
        def timed(*arrays: Any, **attributes: Any) -> None:
            start = time.perf_counter()
            primitive(*arrays, **attributes)
            wait()
            taken = time.perf_counter() - start
            shapes = [a.shape for a in arrays if getattr(a, "ndim", 0)][:2]
            sizes = ["x".join(map(str, shape)) for shape in shapes]
            key = " ".join([name, *filter(None, [attributes.get("op")]), *sizes])
            self._calls[key] += 1
            self._seconds[key] += taken

        return timed

    @contextmanager
    def recording(self, device: Device) -> Iterator[None]:
        """Every primitive that is called on the device meanwhile is timed."""
        backend = backends.get(device)
        originals = dict(backend.primitives)
        for name, primitive in originals.items():
            backend.primitives[name] = self._timed(name, primitive, backend.synchronize)
        try:
            yield
        finally:
            backend.primitives.update(originals)

    def step(self, run: Callable[[], Any]) -> None:
        """One call of `run`, which is recorded by itself."""
        self._calls, self._seconds = Counter(), defaultdict(float)
        start = time.perf_counter()
        run()
        self._steps.append((time.perf_counter() - start, self._seconds))

    def lines(self) -> list[str]:
        """The medians over the steps: the costliest primitives, and what lies between them."""
        total = statistics.median(taken for taken, _ in self._steps)
        spent = {
            key: statistics.median(seconds[key] for _, seconds in self._steps)
            for key in self._calls
        }
        ranked = sorted(spent, key=lambda key: -spent[key])
        rows = [(key, str(self._calls[key]), spent[key]) for key in ranked[:_MOST_LINES]]
        rest = [spent[key] for key in ranked[_MOST_LINES:]]
        if rest:
            rows.append(("other primitives", "", sum(rest)))
        between = [taken - sum(seconds.values()) for taken, seconds in self._steps]
        rows.append(("Python between them", "", statistics.median(between)))
        found = [f"{duration(total)} a call, median of {len(self._steps)}, with timers"]
        found.append(f"{'primitive and shapes':60}  {'calls':>5}  {'time':>8}  {'share':>5}")
        for name, calls, seconds in rows:
            share = f"{seconds / total:5.1%}"
            found.append(f"{name[:60]:60}  {calls:>5}  {duration(seconds):>8}  {share}")
        return found


def profile(row: Row, device: Device, seconds: float) -> list[str]:
    """A table of the primitives that the row's call spends its time in."""
    call = row.call(device)
    found = Profile()
    with call.setting():
        call.run()
        end = time.perf_counter() + seconds
        _record(found, call, device, end)
    return [row.title, *found.lines()]


def _record(found: Profile, call: Call, device: Device, end: float) -> None:
    with found.recording(device):
        found.step(call.run)
        while time.perf_counter() < end:
            found.step(call.run)
