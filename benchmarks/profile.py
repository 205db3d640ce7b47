"""Where the time of a step goes: every primitive of a device, timed where it is called."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from gpucnn import backends
from gpucnn.benchmarks.report import duration
from gpucnn.benchmarks.row import Row
from gpucnn.core.device import Device


class Profile:
    """Calls and seconds by primitive and the shapes of its first two arrays."""

    def __init__(self) -> None:
        self.calls: defaultdict[str, int] = defaultdict(int)
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def wrap(self, name: str, primitive: Callable[..., None], wait: Callable[[], None]) -> Any:
        """The primitive, its calls counted and timed."""

        def timed(*arrays: Any, **attributes: Any) -> None:
            start = time.perf_counter()
            primitive(*arrays, **attributes)
            wait()
            taken = time.perf_counter() - start
            what = attributes.get("op", "")
            shapes = [a.shape for a in arrays if getattr(a, "ndim", 0)][:2]
            key = " ".join([name, what, *("x".join(map(str, shape)) for shape in shapes)])
            self.calls[key] += 1
            self.seconds[key] += taken

        return timed

    @contextmanager
    def recording(self, device: Device) -> Iterator[None]:
        """Every primitive that is called on the device meanwhile is timed."""
        backend = backends.get(device)
        originals = dict(backend.primitives)
        for name, primitive in originals.items():
            backend.primitives[name] = self.wrap(name, primitive, backend.synchronize)
        try:
            yield
        finally:
            backend.primitives.update(originals)

    def lines(self, total: float, steps: int) -> list[str]:
        """The costliest primitives of a step, and what is spent between primitives."""
        within = sum(self.seconds.values())
        found = [f"{'primitive and shapes':60}  {'calls':>5}  {'time':>8}  {'share':>5}"]
        ranked = sorted(self.seconds, key=lambda key: -self.seconds[key])
        rows = [(key, f"{self.calls[key] / steps:g}", self.seconds[key]) for key in ranked[:24]]
        rest = within - sum(seconds for _, _, seconds in rows)
        rows += [("other primitives", "", rest), ("Python between them", "", total - within)]
        for name, calls, seconds in rows:
            spent = duration(seconds / steps)
            found.append(f"{name[:60]:60}  {calls:>5}  {spent:>8}  {seconds / total:5.0%}")
        return found


def profile(row: Row, device: Device, seconds: float) -> list[str]:
    """A table of the primitives that the row's call spends its time in."""
    call = row.call(device)
    call.run()
    found = Profile()
    steps, start = 0, time.perf_counter()
    with found.recording(device):
        while (total := time.perf_counter() - start) < seconds or not steps:
            call.run()
            steps += 1
    return [f"{row.title}: {duration(total / steps)} with timers", *found.lines(total, steps)]
