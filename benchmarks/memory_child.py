"""One variant's training steps in a process of its own: `python -m gpucnn.benchmarks.memory_child`.

Reads a JSON object from its first argument (library, mode, net, batch, threads, steps) and prints
one with what it found:

    peak_rss       bytes of the process: the most while steps ran
    rss_before     before the net and its batch were made
    page_faults    of a step, after warm-up: pages that the system handed out anew

and of gpucnn alone

    large_arrays, large_bytes    of a step: outputs of primitives of 64 KiB and more
    temporaries                  bytes: the most that a step held beyond what it began with
"""

from __future__ import annotations

import json
import re
import resource
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import gpucnn
from gpucnn import backends
from gpucnn.benchmarks.compare_torch import Opponent
from gpucnn.benchmarks.row import Call, Variant
from gpucnn.benchmarks.train import net_row
from gpucnn.core.device import CPU

WARM_UP = 3
LARGE = 64 << 10


def main(task: dict[str, Any]) -> dict[str, float]:
    """What the task's variant needs."""
    gpucnn.set_num_threads(task["threads"])
    row = net_row("memory", task["net"], task["batch"], training=True)
    opponent = Opponent(CPU, task["threads"]) if task["library"] == "PyTorch" else None
    before = _status("VmRSS")
    variant = Variant(task["library"], task["mode"])
    call = row.call(CPU, variant) if opponent is None else opponent.call(row)
    _forget_peak()
    with call.setting():
        for _ in range(WARM_UP):
            call.run()
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(task["steps"]):
            call.run()
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
        found = {
            "peak_rss": _status("VmHWM"),
            "rss_before": before,
            "page_faults": faults / task["steps"],
        }
        if opponent is None:
            found.update(_outputs(call), temporaries=_temporaries(call.run))
    return found


def _outputs(call: Call) -> dict[str, float]:
    """The large arrays that a step gets from the backend."""
    backend: Any = backends.get(CPU)
    sizes: list[int] = []
    own = backend.empty

    def counted(*arguments: Any) -> Any:
        array = own(*arguments)
        if array.nbytes >= LARGE:
            sizes.append(array.nbytes)
        return array

    backend.empty = counted
    try:
        call.run()
    finally:
        del backend.empty
    return {"large_arrays": len(sizes), "large_bytes": sum(sizes)}


def _temporaries(run: Callable[[], Any]) -> float:
    """NumPy tells tracemalloc of its arrays; so do Python's objects, which are small."""
    tracemalloc.start()
    try:
        run()
        tracemalloc.reset_peak()
        held, _ = tracemalloc.get_traced_memory()
        run()
        return float(tracemalloc.get_traced_memory()[1] - held)
    finally:
        tracemalloc.stop()


def _status(name: str) -> float:
    """A size of this process in bytes, as Linux has it."""
    with open("/proc/self/status", encoding="utf-8") as status:
        found = re.search(rf"^{name}:\s+(\d+) kB", status.read(), re.MULTILINE)
    assert found is not None
    return 1024.0 * int(found[1])


def _forget_peak() -> None:
    """Let VmHWM begin anew at the memory in use now."""
    with open("/proc/self/clear_refs", "w", encoding="utf-8") as clear:
        clear.write("5")


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
